"""The README's table of keys, made from the registry: `python -m workbench.docs` prints it, a test compares."""

from __future__ import annotations

from workbench import actions
from workbench.actions import GLOBAL
from workbench.modals.help import keys_text, menu_text


def key_table() -> str:
    """Markdown: a row a command, grouped by where its keys hold."""
    lines = ["| command | keys | menu |", "|---|---|---|"]
    scopes = dict.fromkeys(a.scope for a in actions.registry().values())
    for scope in [GLOBAL, *(s for s in scopes if s != GLOBAL)]:
        if scope != GLOBAL:
            lines.append(f"| **in the {scope}** | | |")
        for action in actions.of_scope(scope):
            keys = ", ".join(f"`{k}`" for k in keys_text(action, {}).split(", ") if k)
            menu = f"`{menu_text(action)}`" if action.menu else ""
            name = action.name if scope == GLOBAL else action.title
            lines.append(f"| {name.removesuffix('…')} | {keys} | {menu} |".replace("`|`", "`\\|`"))
    return "\n".join(lines)


if __name__ == "__main__":
    print(key_table())
