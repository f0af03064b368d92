"""Headless Chromium by its own protocol: what a page says, shows and asks the network for."""

import base64
import itertools
import json
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

BINARY = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
needs_chromium = pytest.mark.skipif(
    not BINARY, reason="Chromium is not installed (apt-get install chromium)"
)
SECONDS = 60


class Page:
    """One page in a browser of its own; a context manager."""

    def __init__(
        self, folder: Path, width: int = 1280, height: int = 900, online: bool = False
    ) -> None:
        """online: the page may ask the network, which on a test's machine is loopback."""
        self._command = [
            BINARY, "--headless", "--no-sandbox", "--disable-gpu", "--disable-software-rasterizer",
            "--force-prefers-reduced-motion", "--no-first-run",
            "--disable-background-networking", "--remote-debugging-port=0",
            f"--user-data-dir={folder}", f"--window-size={width},{height}", "about:blank",
        ]  # fmt: skip
        self._folder = folder
        self._size = width, height
        self._online = online
        self._numbers = itertools.count(1)
        self.complaints: list[str] = []
        """Errors and warnings of the console."""
        self.requests: list[str] = []
        """Everything that was asked for."""

    def __enter__(self) -> "Page":
        from websockets.sync.client import connect

        self._process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + SECONDS
        file = self._folder / "DevToolsActivePort"
        while not (file.is_file() and file.read_text().strip()):
            assert time.monotonic() < deadline, "Chromium does not start"
            time.sleep(0.05)
        port = file.read_text().split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=SECONDS) as reply:
            target = next(one for one in json.load(reply) if one["type"] == "page")
        # No keepalive: a test that is busy elsewhere does not read, and a page that talks fills the
        # queue, behind which the answer to a ping would wait.
        self._socket = connect(
            target["webSocketDebuggerUrl"], max_size=None, proxy=None, ping_interval=None
        )
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        width, height = self._size
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        if not self._online:
            self.call(
                "Network.emulateNetworkConditions",
                offline=True, latency=0, downloadThroughput=0, uploadThroughput=0,
            )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command; what comes in meanwhile is noted."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            news = json.loads(self._socket.recv(timeout=SECONDS))
            if news.get("id") == number:
                assert "error" not in news, news
                return news["result"]
            self._note(news)

    def open(self, path: Path) -> None:
        """Open a page of the report and wait until it is drawn."""
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.wait("document.body && document.body.dataset.ready === 'yes'")

    def go(self, address: str, words: str) -> None:
        """Open an address and wait until the page says something."""
        self.call("Page.navigate", url=address)
        self.wait_text(words)

    def wait_text(self, words: str, seconds: float = SECONDS) -> None:
        self.wait(
            f"document.body && document.body.innerText.includes({json.dumps(words)})", seconds
        )

    def wait(self, condition: str, seconds: float = SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while not self.value(condition):
            assert time.monotonic() < deadline, f"{condition}: {self.complaints}"
            time.sleep(0.05)

    def click(self, selector: str, words: str = "") -> None:
        """Click the first visible element that a CSS selector finds and that has the words."""
        find = (
            f"[...document.querySelectorAll({json.dumps(selector)})].find(one => "
            f"one.innerText.includes({json.dumps(words)}) && one.getClientRects().length)"
        )
        self.wait(f"!!({find})")
        self.value(f"{find}.scrollIntoView({{block: 'center'}})")
        middle = f"(b => [b.x + b.width / 2, b.y + b.height / 2])({find}.getBoundingClientRect())"
        place: list[float] = []
        while place != (place := self.value(middle)):  # until it has come to rest
            time.sleep(0.2)
        for kind in ("mousePressed", "mouseReleased"):
            self.call(
                "Input.dispatchMouseEvent",
                type=kind, x=place[0], y=place[1], button="left", clickCount=1,
            )  # fmt: skip

    def type(self, text: str) -> None:
        """Put text where the focus is, in the place of what stands there."""
        self.value("document.activeElement.select && document.activeElement.select()")
        self.call("Input.insertText", text=text)

    def value(self, expression: str) -> Any:
        """Value of an expression in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key: str) -> None:
        """Press and release a key where the focus is."""
        for kind in ("keyDown", "keyUp"):
            text = {"text": key} if kind == "keyDown" and len(key) == 1 else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, **text)

    def picture(self, path: Path) -> None:
        """Save what the window shows as PNG."""
        data = self.call("Page.captureScreenshot", format="png")["data"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(data))

    def _note(self, news: dict[str, Any]) -> None:
        method, facts = news.get("method"), news.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(facts["exceptionDetails"])[:500])
        elif method == "Runtime.consoleAPICalled" and facts["type"] in ("error", "warning"):
            self.complaints.append(json.dumps(facts["args"])[:500])
        elif method == "Log.entryAdded" and facts["entry"]["level"] in ("error", "warning"):
            self.complaints.append(facts["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(facts["request"]["url"])
