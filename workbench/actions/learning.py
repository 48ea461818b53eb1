"""The Learn section."""

from workbench.actions import Action

ACTIONS = [
    Action("learn.open", "Open Learn", "Learn", menu="l", about="What LoRA does, with the open project's numbers."),
    Action("learn.down", "Scroll down", "Learn", keys="down,j", scope="learn"),
    Action("learn.up", "Scroll up", "Learn", keys="up,k", scope="learn"),
    Action("learn.page-down", "A page down", "Learn", keys="pagedown,d", scope="learn"),
    Action("learn.page-up", "A page up", "Learn", keys="pageup,u", scope="learn"),
    Action("learn.top", "To the top", "Learn", keys="home,g", scope="learn"),
    Action("learn.end", "To the end", "Learn", keys="end,G", scope="learn"),
    Action("learn.next", "Next topic", "Learn", keys="n", scope="learn"),
    Action("learn.previous", "Previous topic", "Learn", keys="p", scope="learn"),
    Action("learn.link", "Mark the next link", "Learn", keys="tab", scope="learn", about="Links stand at the end."),
    Action("learn.link-back", "Mark the previous link", "Learn", keys="shift+tab,B", scope="learn"),
    Action("learn.follow", "Follow the marked link", "Learn", keys="enter", scope="learn"),
    Action("learn.more-rank", "Double r", "Learn", keys="plus,equals_sign", scope="learn", about="On the pages with shapes."),
    Action("learn.less-rank", "Halve r", "Learn", keys="minus", scope="learn"),
    Action("learn.targets", "Other target modules", "Learn", keys="t", scope="learn"),
    Action("learn.more-alpha", "Double alpha", "Learn", keys="a", scope="learn"),
    Action("learn.less-alpha", "Halve alpha", "Learn", keys="A", scope="learn"),
    Action("learn.rslora", "rsLoRA on or off", "Learn", keys="s", scope="learn"),
    Action("learn.reset", "The project's own settings again", "Learn", keys="0", scope="learn"),
]  # fmt: skip
