"""The page at /, in a browser."""

import os
import re
import shutil
from io import BytesIO

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image as Pillow
from playwright.sync_api import Page, expect, sync_playwright

from gemma3n_appliance.engine.request import Audio, Image
from gemma3n_appliance.host import key_file
from tests.fakes.media import picture
from tests.waiting import wait_until

# As bin/setup-browser leaves it: the system's, or else Playwright's own.
CHROMIUM = shutil.which("chromium-headless-shell") or shutil.which("chromium")


@pytest.fixture(scope="module")
def browser():
    microphone = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    names = ["--host-resolver-rules=MAP *.test 127.0.0.1"]
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(
                executable_path=CHROMIUM, args=["--no-sandbox", *microphone, *names]
            )
        except Exception as error:
            if os.environ.get("GEMMA3N_CI"):
                raise
            pytest.skip(f"no browser, see bin/setup-browser: {error}")
        yield browser
        browser.close()


@pytest.fixture
def sensing(serve, speaker):
    """A server whose model sees and hears."""
    return serve(load=lambda: speaker.loaded(has_vision=True, has_audio=True))


@pytest.fixture
def open_page(browser):
    """Opens a server's page. Nothing may go wrong in it unexpectedly, nothing come from elsewhere."""
    contexts, faults = [], []

    def open_one(served, path="/", **options) -> Page:
        url = f"http://127.0.0.1:{served.port}"
        context = browser.new_context(base_url=url, **options)
        contexts.append(context)
        page = context.new_page()
        page.expected = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: _note(page, message, faults))
        page.on(
            "request",
            lambda request: (
                faults.append(request.url) if not request.url.startswith((url, "data:", "blob:")) else None
            ),
        )
        page.goto(path)
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert faults == []


def _note(page, message, faults):
    if message.type == "error" and not any(re.search(known, message.text) for known in page.expected):
        faults.append(message.text)


def ask(page, text):
    page.get_by_role("textbox", name="Message").fill(text)
    page.get_by_role("textbox", name="Message").press("Enter")


def answers(page):
    return (
        page.get_by_role("log").locator("article", has=page.get_by_role("heading", name="Gemma")).locator("p")
    )


def test_the_state_is_shown_and_kept_up_to_date(serve, speaker, open_page):
    served = serve()
    page = open_page(served)
    state = page.get_by_role("region", name="Appliance")
    expect(state).to_contain_text("0 of 2 slots")
    expect(state).to_contain_text("GB free")
    expect(page.get_by_role("status")).to_have_text(re.compile(r"Gemma-Small is ready"))
    speaker.may_decode.clear()
    ask(page, "Hi")
    expect(state).to_contain_text("1 of 2 slots")
    speaker.may_decode.set()
    expect(state).to_contain_text("0 of 2 slots")
    expect(page.get_by_role("list", name="Last errors")).to_have_text("None.")


def test_a_conversation_goes_on(served, open_page):
    page = open_page(served)
    bodies = []
    page.on("request", lambda request: request.post_data and bodies.append(request.post_data_json))
    ask(page, "Hi")
    expect(answers(page)).to_have_text(["Hello there."])
    expect(page.get_by_role("textbox", name="Message")).to_have_value("")
    page.get_by_role("textbox", name="Message").fill("And <b>now</b>?")
    page.get_by_role("button", name="Send").click()
    expect(answers(page)).to_have_text(["Hello there.", "Hello there."])
    assert [message["content"] for message in bodies[1]["messages"]] == [
        "Hi",
        "Hello there.",
        "And <b>now</b>?",
    ]
    expect(page.get_by_role("log")).to_contain_text("And <b>now</b>?")
    page.get_by_role("button", name="New chat").click()
    ask(page, "Anew")
    expect(answers(page)).to_have_text(["Hello there."])
    assert [message["content"] for message in bodies[2]["messages"]] == ["Anew"]


def test_an_answer_can_be_stopped(serve, speaker, open_page):
    speaker.answer_endlessly = True
    served = serve()
    page = open_page(served)
    for how in (
        lambda: page.get_by_role("button", name="Stop", exact=True).click(),
        lambda: page.keyboard.press("Escape"),
    ):
        ask(page, "Hi")
        expect(answers(page).last).to_have_text(re.compile("!"))
        expect(page.get_by_role("button", name="Send")).to_be_disabled()
        how()
        expect(page.get_by_role("button", name="Send")).to_be_enabled()
        wait_until(lambda: served.engine.num_running == 0)
    expect(page.get_by_role("textbox", name="Message")).to_be_focused()
    expect(answers(page)).to_have_count(2)


def test_a_chat_that_begins_anew_in_the_middle_of_an_answer_knows_nothing_of_it(serve, speaker, open_page):
    speaker.answer_endlessly = True
    page = open_page(serve())
    ask(page, "Hi")
    expect(answers(page)).to_have_text([re.compile("!")])
    page.get_by_role("button", name="New chat").click()
    speaker.answer_endlessly = False
    bodies = []
    page.on("request", lambda request: request.post_data and bodies.append(request.post_data_json))
    ask(page, "Ho")
    expect(answers(page)).to_have_text(["Hello there."])
    assert len(bodies[0]["messages"]) == 1


def wide_picture():
    return {"name": "wide.jpg", "mimeType": "image/jpeg", "buffer": picture("JPEG", size=(3000, 1000))}


def test_pictures_are_chosen_shown_made_smaller_and_seen(sensing, speaker, open_page):
    page = open_page(sensing)
    page.get_by_label("Add a picture").set_input_files([wide_picture(), wide_picture()])
    shown = page.get_by_role("list", name="Attachments").get_by_role("img", name="wide.jpg")
    expect(shown).to_have_count(2)
    page.get_by_role("button", name="Remove wide.jpg").first.click()
    expect(shown).to_have_count(1)
    ask(page, "What is it?")
    expect(answers(page)).to_have_text(["Hello there."])
    (seen,) = speaker.requests[-1].media
    assert isinstance(seen, Image)
    expect(page.get_by_role("log").get_by_role("img", name="wide.jpg")).to_be_visible()
    expect(shown).to_have_count(0)


def hand_over(page, event, name, content, kind):
    """Drops or pastes a file, as a person would."""
    page.evaluate(
        """([event, name, content, kind]) => {
            const files = new DataTransfer();
            files.items.add(new File([new Uint8Array(content)], name, { type: kind }));
            const options = { bubbles: true, cancelable: true };
            document.body.dispatchEvent(
                event === "drop"
                    ? new DragEvent("drop", { ...options, dataTransfer: files })
                    : new ClipboardEvent("paste", { ...options, clipboardData: files })
            );
        }""",
        [event, name, [*content], kind],
    )


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_pictures_are_dropped_and_pasted(sensing, speaker, open_page, event):
    page = open_page(sensing)
    file = BytesIO()
    Pillow.new("RGBA", (20, 10), (255, 0, 0, 0)).save(file, "PNG")
    hand_over(page, event, "red.png", file.getvalue(), "image/png")
    expect(page.get_by_role("img", name="red.png")).to_be_visible()
    page.get_by_role("button", name="Send").click()
    expect(answers(page)).to_have_text(["Hello there."])
    assert [(image.width, image.height) for image in speaker.requests[-1].media] == [(20, 10)]


def test_what_is_no_picture_is_told(sensing, open_page):
    page = open_page(sensing)
    hand_over(page, "drop", "broken.png", b"no picture", "image/png")
    expect(page.get_by_role("alert")).to_contain_text("broken.png")
    hand_over(page, "drop", "notes.txt", b"text", "text/plain")
    expect(page.get_by_role("alert")).to_contain_text("Only pictures")


def test_a_recording_is_heard(sensing, speaker, open_page):
    page = open_page(sensing)
    record = page.locator("#record")
    record.click()
    expect(record).to_have_attribute("aria-pressed", "true")
    page.wait_for_timeout(1_000)
    record.click()
    expect(page.get_by_role("button", name="Remove recording")).to_be_visible()
    ask(page, "What do you hear?")
    expect(answers(page)).to_have_text(["Hello there."])
    (heard,) = speaker.requests[-1].media
    assert isinstance(heard, Audio)
    assert 0.3 < len(heard.samples) / 4 / 16_000 < 5


def test_what_goes_wrong_is_told_and_can_be_sent_again(serve, open_page):
    served = serve()
    page = open_page(served)
    page.expected = ["400", "Failed to fetch|ERR_CONNECTION"]
    ask(page, "x" * 50_000)
    expect(page.get_by_role("alert")).to_contain_text("context")
    expect(page.get_by_role("textbox", name="Message")).to_have_value("x" * 50_000)
    expect(page.get_by_role("log").locator("article")).to_have_count(0)
    ask(page, "Hi")
    expect(answers(page)).to_have_text(["Hello there."])
    expect(page.get_by_role("alert")).to_have_text("")
    served.stop()
    expect(page.get_by_role("status")).to_contain_text("does not answer")


def test_what_is_typed_during_an_answer_stays_beside_a_question_that_failed(serve, speaker, open_page):
    speaker.may_decode.clear()
    speaker.prefill_error = RuntimeError("broken")
    page = open_page(serve())
    page.expected = ["500"]
    page.route("**/v1/chat/completions", lambda route: (page.wait_for_timeout(300), route.continue_()))
    ask(page, "First.")
    page.get_by_role("textbox", name="Message").fill("Second.")
    expect(page.get_by_role("alert")).to_contain_text("engine failed")
    expect(page.get_by_role("textbox", name="Message")).to_have_value("First.\nSecond.")


def test_whoever_reads_further_up_is_left_there(serve, speaker, open_page):
    speaker.answer = "word " * 150
    speaker.answer_endlessly = False
    page = open_page(serve(), viewport={"width": 400, "height": 500})
    ask(page, "Hi " * 150)
    expect(answers(page)).to_have_count(1)
    expect(page.get_by_role("button", name="Send")).to_be_enabled()
    log = page.get_by_role("log")
    assert log.evaluate("log => log.scrollTop > 0")
    speaker.answer_endlessly = True
    ask(page, "More")
    expect(answers(page).last).to_have_text(re.compile("!"))
    log.evaluate("log => { log.style.scrollBehavior = 'auto'; log.scrollTop = 0; }")
    page.wait_for_timeout(500)
    assert log.evaluate("log => log.scrollTop") == 0


def test_the_keyboard_keeps_its_place(serve, speaker, open_page):
    speaker.may_decode.clear()
    page = open_page(serve())
    page.get_by_role("textbox", name="Message").fill("Hi")
    page.get_by_role("button", name="Send").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("textbox", name="Message")).to_be_focused()
    page.get_by_role("button", name="Stop", exact=True).focus()
    speaker.may_decode.set()
    expect(page.get_by_role("button", name="Send")).to_be_enabled()
    expect(page.get_by_role("textbox", name="Message")).to_be_focused()


def test_two_clicks_on_the_microphone_are_one_recording(sensing, open_page):
    page = open_page(sensing)
    page.evaluate(
        """() => {
            window.streams = [];
            const known = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
            navigator.mediaDevices.getUserMedia = async (wanted) => {
                await new Promise((go) => setTimeout(go, 200));
                window.streams.push(await known(wanted));
                return window.streams.at(-1);
            };
        }"""
    )
    page.evaluate("() => { for (let i = 0; i < 2; i++) document.getElementById('record').click(); }")
    expect(page.locator("#record")).to_have_attribute("aria-pressed", "true")
    page.wait_for_timeout(500)
    page.locator("#record").click()
    expect(page.get_by_role("button", name="Remove recording")).to_be_visible()
    tracks = page.evaluate("() => window.streams.map((s) => s.getTracks().map((t) => t.readyState))")
    assert tracks == [["ended"]]


def test_the_last_errors_are_listed(serve, speaker, open_page):
    speaker.fail_after = 3
    page = open_page(serve())
    ask(page, "Hi")
    expect(page.get_by_role("alert")).to_contain_text("engine failed")
    errors = page.get_by_role("list", name="Last errors").get_by_role("listitem")
    expect(errors).to_have_text([re.compile("/v1/chat/completions.*engine failed.*req-")])


def test_where_keys_are_set_the_browser_asks_for_one(serve, tmp_path, open_page):
    key = key_file.add(tmp_path / "keys", "me", max_concurrent=1)
    served = serve(api_keys_file=tmp_path / "keys")
    for path in ("/", "/page.js", "/page.css", "/status"):
        assert served.http.get(path).status_code == 401
    page = open_page(served, http_credentials={"username": "me", "password": key})
    ask(page, "Hi")
    expect(answers(page)).to_have_text(["Hello there."])
    expect(page.get_by_role("region", name="Appliance")).to_contain_text("0 of 2 slots")


FOREIGN = """async (board) => {
    const body = new Blob([JSON.stringify({model: "gemma3n", messages: [{role: "user", content: "Hi"}]})]);
    const blindly = {mode: "no-cors", credentials: "include"};
    await fetch(`${board}/v1/chat/completions`, {method: "POST", body, ...blindly});
    await fetch(`${board}/status`, blindly);
}"""


def test_no_other_page_spends_a_key_that_the_browser_knows(serve, speaker, tmp_path, browser):
    key = key_file.add(tmp_path / "keys", "me")
    served, other = serve(api_keys_file=tmp_path / "keys"), serve()
    context = browser.new_context(http_credentials={"username": "me", "password": key})
    try:
        page = context.new_page()
        # Names, as by plain http a browser tells nothing of where a request comes from.
        board = f"http://board.test:{served.port}"
        page.goto(board)
        expect(page.get_by_role("status")).to_contain_text("ready")
        page.goto(f"http://other.test:{other.port}/health")
        page.evaluate(FOREIGN, board)
        assert speaker.requests == []
        page.set_content(f'<a href="{board}/">there</a>')
        page.get_by_role("link").click()
        expect(page.get_by_role("status")).to_contain_text("ready")
    finally:
        context.close()


def test_nothing_foreign_runs_in_it(served, open_page):
    policy = served.http.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    page = open_page(served)
    page.expected = ["Content Security Policy", "404"]
    page.evaluate(
        "() => { document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.ran = 1\">') }"
    )
    page.wait_for_timeout(200)
    assert page.evaluate("() => window.ran === undefined")
    with pytest.raises(Exception, match="fetch"):
        page.evaluate("() => fetch('http://127.0.0.2:9/')")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_is_accessible_and_fits_a_phone(sensing, open_page, scheme, width):
    page = open_page(sensing, color_scheme=scheme, viewport={"width": width, "height": 740})
    page.get_by_label("Add a picture").set_input_files([wide_picture()])
    expect(page.get_by_role("img", name="wide.jpg")).to_be_visible()
    ask(page, "a" * 300)
    expect(answers(page)).to_have_text(["Hello there."])
    found = Axe().run(page, options={"resultTypes": ["violations"]})
    assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")


def test_the_keyboard_is_enough(served, open_page):
    page = open_page(served)
    names = []
    for _ in range(6):
        page.keyboard.press("Tab")
        names.append(page.evaluate("() => document.activeElement.id"))
    assert names == ["messages", "text", "send", "picture", "record", "clear"]
    page.get_by_role("textbox", name="Message").focus()
    page.keyboard.type("Hi")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("there")
    expect(page.get_by_role("textbox", name="Message")).to_have_value("Hi\nthere")
    page.keyboard.press("Enter")
    expect(answers(page)).to_have_text(["Hello there."])
