"""A card that asks whether a function may be called, in JupyterLab in a real browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.browser.test_displays import barriers
from tests.runtime.test_calls import calling, outputs
from tests.runtime.test_dependencies import bodies
from tests.support.browser import Lab
from tests.support.scripted import ScriptedServer, response

FUNCTIONS = '''
def look_up(city: str) -> str:
    """Look up a city."""
    return f"<b>12 degrees in {city}</b>"


def send_mail(to: str, text: str) -> str:
    """Send a mail."""
    return "sent"


print("ready")
'''
CALLS = [
    ("look_up", {"city": "<img src=x onerror=alert(1)>"}),
    ("send_mail", {"to": "ada@example.org", "text": "It is 12 degrees."}),
    ("send_mail", {"to": "everybody@example.org", "text": "Hello."}),
]


def ending(rid: str, body: Any) -> dict[str, Any]:
    return response(rid, "completed", "Done.") if outputs(body) else calling(rid, CALLS)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_card_asks(
    theme: str, server: ScriptedServer, lab_with: Callable[..., tuple[Lab, Path]]
) -> None:
    """Each call is shown on the card as text, whatever the model wrote; those that ask have Allow and
    Deny, which a keyboard reaches too; what came of them stays, folded, in the finished HTML, and a card
    whose kernel has ended says what to do."""
    server.polls, server.ending = 0, ending
    cell = "%%bgresponse -o mail --tool $look_up --tool $send_mail --ask\nTell Ada the weather."
    lab, _ = lab_with(FUNCTIONS, cell, theme=theme)
    lab.run(1)
    lab.cell(1).locator("pre", has_text="ready").wait_for()
    lab.run(2)
    card = lab.cell(2).locator(".bgmagic-card")
    rows = card.locator(".bgmagic-call")
    card.get_by_role("button", name="Allow").nth(2).wait_for()
    assert rows.count() == 3
    assert "<img src=x onerror=alert(1)>" in rows.nth(0).inner_text()
    assert rows.locator("img").count() == 0
    assert barriers(lab.page, ".bgmagic-card") == []
    allow = rows.nth(0).get_by_role("button", name="Allow")
    allow.focus()
    lab.page.keyboard.press("Enter")
    rows.nth(0).get_by_text("<b>12 degrees").wait_for()
    if theme == "dark":  # what the kernel leaves behind looks alike in both
        lab.shut_down()
        card.get_by_text("the model waits for its calls. Define the functions again").wait_for()
        return
    rows.nth(1).get_by_role("button", name="Allow").click()
    rows.nth(2).get_by_role("button", name="Deny").click()
    lab.cell(2).get_by_text("3 calls of functions of the notebook").wait_for()
    assert [text.partition(":")[0][:5] for text in outputs(bodies(server)[-1])] == [
        "<b>12",
        "sent",
        "Error",
    ]
    saved = lab.cell(2).locator("details").inner_html()
    assert "&lt;img src=x onerror=alert(1)&gt;" in saved.replace("\\u003c", "&lt;")
    assert "the user did not allow this call" in saved
