"""Small widgets that views and editors share."""
