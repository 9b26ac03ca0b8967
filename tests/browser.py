"""A real Chromium, without a window, that reaches nothing but this machine; what it asked for is on record."""

import json
import shutil
from contextlib import contextmanager
from urllib.parse import urlsplit

from selenium import webdriver
from selenium.common.exceptions import TimeoutException, WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from lacking import lacking

#: Seconds within which the page has to show something (a busy machine takes long to run its scripts).
PATIENCE = 90

OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # tests may run as root, as which the sandbox does not start
    "--disable-gpu",
    "--disable-dev-shm-usage",  # containers often have very little of it
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--force-device-scale-factor=1",
    "--window-size=1200,760",
)
#: MLflow opens its assistant on a first visit, over a third of the page.
NO_ASSISTANT = """
localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
localStorage.setItem("mlflow.assistant.panelOpen_v1", "false");
"""


@contextmanager
def chromium(profile):
    """A `Browser` with a new profile in this directory; without Chromium and its driver the test is skipped."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (program and driver):
        lacking("no chromium and chromedriver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for option in (*OPTIONS, f"--user-data-dir={profile}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=Service(driver))
    try:
        chrome.set_page_load_timeout(PATIENCE)
        yield Browser(chrome)
    finally:
        chrome.quit()


class Browser:
    """Looks at a page as it stands, in one go: it is drawn anew at any time, and what was found before is gone then."""

    def __init__(self, chrome):
        self.chrome = chrome
        self._hosts = set()

    def open(self, url):
        """Load an address anew, also when only what follows its # is another one."""
        self.chrome.get("about:blank")
        script = f"if (location.protocol.startsWith('http')) {{ {NO_ASSISTANT} }}"
        added = self.chrome.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": script})
        self.chrome.get(url)
        self.chrome.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)

    def until(self, condition, what):
        """The first true value of `condition()`."""
        try:
            return WebDriverWait(self.chrome, PATIENCE).until(lambda _: condition())
        except TimeoutException:
            raise AssertionError(f"no {what} at {self.chrome.current_url}: {self.text()[:2000]}") from None

    def text(self):
        """All words on the page."""
        return self.chrome.find_element(By.TAG_NAME, "body").text

    def ask(self, script, *arguments):
        """What a script finds on the page."""
        return self.chrome.execute_script(script, *arguments)

    def click(self, selector):
        """Click on what lies there, as soon as it can be."""

        def clicked():
            try:
                self.chrome.find_element(By.CSS_SELECTOR, selector).click()
            except WebDriverException:  # not there yet, or something lies above it
                return False
            return True

        self.until(clicked, selector)

    def hosts(self):
        """The hosts of all requests that pages have made so far."""
        for entry in self.chrome.get_log("performance"):
            event = json.loads(entry["message"])["message"]
            if event["method"] in ("Network.requestWillBeSent", "Network.webSocketCreated"):
                asked = event["params"].get("request", event["params"])["url"]
                if urlsplit(asked).scheme in ("http", "https", "ws", "wss"):
                    self._hosts.add(urlsplit(asked).hostname)
        return self._hosts
