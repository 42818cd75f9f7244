"""A browser by the WebDriver protocol alone: chromedriver speaks HTTP, so no package is needed."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
ENTER, TAB = "\ue007", "\ue004"


def find_browser() -> tuple[str, str] | None:
    """Paths of Chromium and its driver, None where either is missing."""
    chromium = next((path for name in CHROMIUM if (path := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    return (chromium, driver) if chromium and driver else None


class Browser:
    """One session; the methods are those commands that the tests need."""

    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}"
        self._session = ""

    def start(self, chromium: str, *, dark: bool) -> None:
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        options += ["--window-size=1280,900", "--disable-background-networking"]
        # a page may ask for nothing: whatever it does ask for fails, and is logged
        options += ["--host-resolver-rules=MAP * ~NOTFOUND"]
        options += ["--blink-settings=preferredColorScheme=0"] if dark else []
        wanted = {
            "goog:chromeOptions": {"binary": chromium, "args": options},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        made = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._session = f"/session/{made['sessionId']}"

    def open(self, page: Path) -> None:
        self._call("POST", self._session + "/url", {"url": page.as_uri()})

    def script(self, code: str, *arguments: Any) -> Any:
        return self._call("POST", self._session + "/execute/sync", {"script": code, "args": list(arguments)})

    def resize(self, width: int, height: int = 900) -> None:
        """Give the page a width, as a device or a frame of it has."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._devtools("Emulation.setDeviceMetricsOverride", size)

    def picture(self, path: Path, most: int = 6000) -> None:
        """Save the page as a PNG, up to a height."""
        height = min(self.script("return document.documentElement.scrollHeight"), most)
        area = {"x": 0, "y": 0, "width": self.script("return innerWidth"), "height": height, "scale": 1}
        shot = self._devtools("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": area})
        path.write_bytes(base64.b64decode(shot["data"]))

    def requested(self) -> list[str]:
        """Every address that was asked for since the last call."""
        found = self._call("POST", self._session + "/se/log", {"type": "performance"})
        events = (json.loads(entry["message"])["message"] for entry in found)
        return [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]

    def _devtools(self, command: str, parameters: dict[str, Any]) -> Any:
        body = {"cmd": command, "params": parameters}
        return self._call("POST", self._session + "/chromium/send_command_and_get_result", body)

    def type(self, *keys: str) -> None:
        """Press keys, as the keyboard does: trusted events, to whatever has the focus."""
        pressed = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._call("POST", self._session + "/actions", {"actions": [{"type": "key", "id": "k", "actions": pressed}]})

    def console(self) -> list[dict[str, Any]]:
        found = self._call("POST", self._session + "/se/log", {"type": "browser"})
        assert isinstance(found, list)
        return found

    def stop(self) -> None:
        if self._session:
            self._call("DELETE", self._session)

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._base + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            with error:
                raise RuntimeError(f"{method} {path}: {error.read().decode()[:400]}") from None


@contextmanager
def browser(paths: tuple[str, str], *, dark: bool = False) -> Iterator[Browser]:
    chromium, driver = paths
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([driver, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    session = Browser(port)
    try:
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.1)
        session.start(chromium, dark=dark)
        yield session
        session.stop()
    finally:
        process.terminate()
        process.wait(20)
