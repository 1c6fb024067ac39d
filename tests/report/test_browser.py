"""The page in a real browser: it writes nothing to the console, asks for nothing, fits, and works."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

INSTALL = "apt-get install -y chromium chromium-driver && pip install selenium"
webdriver = pytest.importorskip("selenium.webdriver", reason=INSTALL)

from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.select import Select  # noqa: E402
from selenium.webdriver.support.wait import WebDriverWait  # noqa: E402

ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


class Browser:
    """A headless Chromium that remembers what a page wrote to the console and what it asked for."""

    def __init__(self, profile: Path) -> None:
        chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
        if not (chromium and chromedriver):
            pytest.skip(INSTALL)
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for argument in (*ARGUMENTS, f"--user-data-dir={profile}"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        service = webdriver.ChromeService(chromedriver)
        self.driver = webdriver.Chrome(options=options, service=service)

    def open(self, path: Path, *, fragment: str = "", width: int = 1280, theme: str = "light") -> None:
        self.driver.get("about:blank")
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
        features = [
            {"name": "prefers-color-scheme", "value": theme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": features})
        for log in ("browser", "performance"):
            self.driver.get_log(log)
        self.driver.get(path.as_uri() + fragment)
        self.until("location.protocol === 'file:' && document.readyState === 'complete'")  # a busy driver may not wait

    def problems(self, path: Path) -> list[str]:
        """Return what the console holds and every request but the one for the file itself."""
        console = [entry["message"] for entry in self.driver.get_log("browser")]
        requests = []
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                url = message["params"]["request"]["url"]
                if not url.startswith("data:") and url.split("#")[0] != path.as_uri():
                    requests.append(url)
        return console + requests

    def run(self, script: str, *arguments: object):
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def shown(self) -> list[str]:
        """Return the latents whose cards are visible, in their order on the page."""
        script = "return Array.from(document.querySelectorAll('.card:not([hidden])')).map(c => c.dataset.latent)"
        return self.run(script)

    def until(self, script: str) -> None:
        WebDriverWait(self.driver, 5, poll_frequency=0.02).until(lambda _: self.run(f"return {script}"))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    started = Browser(tmp_path_factory.mktemp("profile"))
    yield started
    started.driver.quit()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1280])
@pytest.mark.parametrize("kind", ["report_file", "array_file"])
def test_the_page_is_silent_asks_for_nothing_and_fits(
    browser: Browser, kind: str, width: int, theme: str, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(kind)
    browser.open(path, width=width, theme=theme)
    browser.run("document.querySelectorAll('.card').forEach(card => { card.open = true; })")
    assert browser.run("return innerWidth") == width
    assert browser.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    assert browser.run("return document.querySelector('h1').getBoundingClientRect().right") <= width
    ground = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(251, 250, 247)" if theme == "light" else "rgb(19, 21, 24)")
    assert browser.problems(path) == []


@pytest.mark.parametrize(
    "body",
    [
        "<script>console.error('e')</script>",
        "<script>console.warn('w')</script>",
        "<script>missing()</script>",
        "<img src='http://127.0.0.1:9/picture.png'>",
        "<link rel=stylesheet href='style.css'>",
    ],
)
def test_the_watch_sees_what_it_is_there_to_see(browser: Browser, body: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.html"
    path.write_text(f"<!doctype html><title>bad</title><body>{body}")
    browser.open(path)
    assert browser.problems(path)


def test_hostile_tokens_run_nothing_and_injected_scripts_are_refused(browser: Browser, report_file: Path) -> None:
    browser.open(report_file)
    assert browser.run("return document.querySelectorAll('#cards script, #cards img').length") == 0
    browser.run(
        "const script = document.createElement('script'); script.textContent = 'window.ran = 1';"
        "document.body.append(script)"
    )
    assert browser.run("return window.ran") is None
    assert any("Content Security Policy" in problem for problem in browser.problems(report_file))


def test_the_toggle_changes_the_theme_and_is_remembered(browser: Browser, report_file: Path) -> None:
    ground = "return getComputedStyle(document.body).backgroundColor"
    browser.open(report_file, theme="light")
    light = browser.run(ground)
    browser.find("#theme").click()
    dark = browser.run(ground)
    assert dark != light
    browser.open(report_file, theme="light")
    assert browser.run(ground) == dark
    browser.find("#theme").click()
    assert browser.run(ground) == light
    browser.run("localStorage.clear()")
    assert browser.problems(report_file) == []


def test_the_search_finds_words_tokens_and_latents(browser: Browser, report_file: Path) -> None:
    browser.open(report_file)
    everything = browser.shown()
    browser.find("body").send_keys("/")
    field = browser.driver.switch_to.active_element
    field.send_keys("<SCRIPT>alert(1)")
    assert browser.shown() == ["7"]
    assert browser.find("#count").text == "1 of 50"
    field.clear()
    field.send_keys("#210")
    assert browser.shown() == ["210"]
    field.clear()
    field.send_keys("no such words")
    assert browser.shown() == []
    browser.find("#clear").click()
    assert browser.shown() == everything
    assert browser.find("#count").text == "50 shown"
    assert browser.problems(report_file) == []


def test_cards_are_sorted_and_filtered_by_density(browser: Browser, report_file: Path, report_data) -> None:
    density = {str(card.latent): card.density for card in report_data.features}
    browser.open(report_file)
    Select(browser.find("#sort")).select_by_value("-density")
    found = [density[latent] for latent in browser.shown()]
    assert found == sorted(density.values(), reverse=True)
    Select(browser.find("#band")).select_by_visible_text("never active")
    assert "8" in browser.shown()
    assert {density[latent] for latent in browser.shown()} == {0.0}
    Select(browser.find("#band")).select_by_visible_text("every density")
    Select(browser.find("#sort")).select_by_value("order")
    assert browser.shown() == [str(card.latent) for card in report_data.features]
    assert browser.problems(report_file) == []


def test_all_cards_open_and_close(browser: Browser, report_file: Path) -> None:
    browser.open(report_file)
    opened = "document.querySelectorAll('.card[open]').length"
    browser.find("#open-all").click()
    browser.until(f"{opened} === 50")
    browser.until("document.getElementById('open-all').textContent === 'Close all'")
    browser.find("#open-all").click()
    browser.until(f"{opened} === 0")
    assert browser.problems(report_file) == []


def test_an_address_with_a_latent_opens_its_card(browser: Browser, report_file: Path) -> None:
    browser.open(report_file, fragment="#latent-7")
    assert browser.run("return document.getElementById('latent-7').open")
    browser.until("Math.abs(document.getElementById('latent-7').getBoundingClientRect().top) < 200")


def test_opening_a_card_puts_its_latent_into_the_address(browser: Browser, report_file: Path) -> None:
    browser.open(report_file)
    browser.find("#latent-202 summary").click()
    assert browser.driver.current_url.endswith("#latent-202")
    assert browser.problems(report_file) == []


def test_pointing_at_a_token_shows_its_activation_within_the_page(browser: Browser, report_file: Path) -> None:
    browser.open(report_file, width=360)
    marks = browser.driver.find_elements(By.CSS_SELECTOR, ".card[open] .contexts mark.h8")
    browser.run("arguments[0].scrollIntoView({ block: 'center', behavior: 'instant' })", marks[0])
    browser.run("return new Promise(done => setTimeout(done, 100))")
    ActionChains(browser.driver).move_to_element(marks[0]).perform()
    browser.until("!document.getElementById('tip').hidden")
    tip = browser.find("#tip")
    assert tip.text.startswith(marks[0].text)
    assert any(character.isdigit() for character in tip.text)
    assert tip.rect["x"] >= 0
    assert tip.rect["x"] + tip.rect["width"] <= 360
    assert browser.problems(report_file) == []


def test_arrow_keys_visit_the_active_tokens_of_a_context(browser: Browser, report_file: Path) -> None:
    browser.open(report_file)
    line = browser.find(".card[open] .contexts .tokens")
    browser.run("arguments[0].focus()", line)
    marks = line.find_elements(By.CSS_SELECTOR, "mark")
    line.send_keys(Keys.ARROW_RIGHT)
    browser.until("!document.getElementById('tip').hidden")
    assert "at" in marks[0].get_attribute("class").split()
    line.send_keys(Keys.ARROW_LEFT)
    assert "at" in marks[-1].get_attribute("class").split()
    line.send_keys(Keys.ESCAPE)
    assert not browser.find("#tip").is_displayed()


def test_without_script_the_page_still_opens_its_cards(browser: Browser, report_file: Path) -> None:
    browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.open(report_file, width=360)
        assert not browser.find(".controls").is_displayed()
        assert not browser.find("#theme").is_displayed()
        summary = browser.find("#latent-201 summary")
        summary.send_keys(Keys.ENTER)
        assert browser.find("#latent-201 .contexts .tokens").is_displayed()
        assert browser.problems(report_file) == []
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_on_paper_the_page_is_light_and_has_no_controls(browser: Browser, report_file: Path) -> None:
    browser.open(report_file, theme="dark")
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert browser.run("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not browser.find(".bar").is_displayed()
    assert not browser.find(".controls").is_displayed()
