"""A headless Chromium by its debugging protocol: what the page's tests drive, and pictures of a page.

python ci/chromium.py URL FILE [--width 1280] [--height 900] [--dark] [--when EXPRESSION]
"""

import argparse
import base64
import itertools
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from websockets.sync.client import connect

BINARY = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--remote-debugging-port=0",
)


class Page:
    """One tab. `requests` and `problems` collect addresses asked for and what the console complained of."""

    def __init__(self, *flags):
        assert BINARY is not None, "no chromium"
        self._home = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        environment = {**os.environ, "HOME": self._home.name}
        command = [BINARY, *FLAGS, *flags, f"--user-data-dir={self._home.name}/profile", "about:blank"]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        for line in self._process.stderr:
            if found := re.search(r"ws://\S+", line):
                break
        else:
            raise RuntimeError("chromium did not start")
        self._socket = connect(found.group(), max_size=None, compression=None)
        self._numbers, self._session = itertools.count(1), None
        self.requests, self.problems = [], []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._socket.close()
        self._process.kill()
        self._process.wait()
        self._process.stderr.close()
        self._home.cleanup()

    def send(self, method, **parameters):
        """Result of one command."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        self._socket.send(json.dumps(message | ({"sessionId": self._session} if self._session else {})))
        while True:
            answer = json.loads(self._socket.recv(timeout=240))
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self._note(answer.get("method"), answer.get("params", {}))

    def _note(self, event, given):
        if event == "Network.requestWillBeSent":
            self.requests.append(given["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            self.problems.append(given["exceptionDetails"].get("exception", {}).get("description", "exception"))
        elif event == "Log.entryAdded" and given["entry"]["level"] == "error":
            self.problems.append(given["entry"]["text"])

    def value(self, expression):
        """What an expression, perhaps a promise, comes to."""
        answer = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"]["description"])
        return answer["result"].get("value")

    def wait(self, expression, seconds=240):
        """Return when an expression is true; one that fails, as while a page opens, is not."""
        expression = f"(() => {{ try {{ return {expression} }} catch {{ return false }} }})()"
        end = time.monotonic() + seconds
        while not self.value(expression):
            if time.monotonic() > end:
                raise TimeoutError(f"{expression}; status: {self.value('document.body.innerText')}; {self.problems}")
            time.sleep(0.1)

    def key(self, name, code):
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=code)

    def resize(self, width, height, *, dark=False):
        """Size of the window, and what the system prefers."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def shot(self, path):
        """A PNG of what is visible."""
        data = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
        Path(path).write_bytes(base64.b64decode(data))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("file")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=900)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--when", default="document.documentElement.dataset.drawn")
    given = parser.parse_args()
    with Page() as page:
        page.resize(given.width, given.height, dark=given.dark)
        page.send("Page.navigate", url=given.url)
        page.wait(given.when)
        page.shot(given.file)


if __name__ == "__main__":
    main()
