"""The topics of Learn in the side bar; Enter shows one, in the Learn tab that is open or a new one."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.content import Content
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from workbench.models.theory import TOPICS
from workbench.widgets.list_keys import IN_LIST

if TYPE_CHECKING:
    from workbench.app import WorkbenchApp


class Topics(OptionList):
    """A title and a line about each."""

    DEFAULT_CSS = "Topics { height: 1fr; border: none; background: $surface; padding: 0 1; }"
    BINDINGS: ClassVar = IN_LIST
    if TYPE_CHECKING:

        @property
        def app(self) -> WorkbenchApp: ...

    def on_mount(self) -> None:
        for name, topic in TOPICS.items():
            about = Content.styled(f"\n  {topic.about}", "$text-muted")
            self.add_option(Option(Content.assemble(Content.styled(topic.title, "bold"), about), id=name))
        self.highlighted = 0

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        if event.option_id is not None:
            show(self.app, event.option_id)


def show(app: WorkbenchApp, topic: str) -> None:
    """Bring Learn to the front with this topic."""
    from workbench.editors.learn_view import LearnView

    editors = app.workbench.editors
    there = editors.find(f"learn:{topic}") or next((e for e in editors.all if isinstance(e, LearnView)), None)
    if isinstance(there, LearnView):
        there.go(topic)
        app.open(there.uri)
    else:
        app.open(f"learn:{topic}")
