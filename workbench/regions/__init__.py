"""The five areas of the screen, and the status bar."""
