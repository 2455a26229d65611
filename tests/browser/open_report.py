"""Open a survey's page in a browser, check what only a browser can tell, and take pictures of it.

    make test-browser

runs this with Chromium and its driver (Debian: ``apt-get install chromium chromium-driver``; elsewhere name
them in CHROMIUM and CHROMEDRIVER).

    python tests/browser/open_report.py survey_report.html PICTURES

What is wrong is said on stderr, and the exit status is 1; 2 if there is no browser.
"""

import base64
import itertools
import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.keys import Keys

PROBLEMS = []
WIDTHS = {"phone_320": 320, "phone": 390, "desktop": 1280}
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
MOST_TABS = 80


def expect(fine, problem):
    if not fine:
        PROBLEMS.append(problem)


def find():
    """Return Chromium and its driver, or say what to install."""
    browser = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    driver = os.environ.get("CHROMEDRIVER") or shutil.which("chromedriver")
    if not browser or not driver:
        missing = "Chromium" if not browser else "chromedriver"
        print(
            f"{missing} is not installed: apt-get install chromium chromium-driver, or name the two programs "
            "in the variables CHROMIUM and CHROMEDRIVER",
            file=sys.stderr,
        )
        sys.exit(2)
    return browser, driver


def start(profile, *flags):
    browser, driver = find()
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS, *flags, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=Service(driver))


def check_silence(browser, page):
    """Check that the page said nothing on the console and asked for nothing but itself."""
    for entry in browser.get_log("browser"):
        expect(False, f"console: {entry['level']} {entry['message']}")
    asked = set()
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        sent = message["method"] == "Network.requestWillBeSent"
        if (
            sent and message["params"]["documentURL"].split("#")[0] == page.as_uri()
        ):  # not Chromium's own tabs
            asked.add(message["params"]["request"]["url"].split("#")[0])
    others = {url for url in asked if not url.startswith("data:")} - {page.as_uri()}
    expect(not others, f"the page asks for {sorted(others)[:3]}")
    print(f"requests: {len(asked - others)} of its own, {len(others)} others")


def check_width(browser, name, width, pictures):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    found, culprits = browser.execute_script("""
        const wide = document.documentElement.clientWidth;
        const inside = e => e.closest('.wide') || e.closest('svg') || e.closest('.skip');
        const out = [...document.querySelectorAll('body *')].filter(
            e => !inside(e) && e.getBoundingClientRect().right > wide + 1 && e.checkVisibility());
        return [document.documentElement.scrollWidth, out.slice(0, 3).map(e => e.outerHTML.slice(0, 90))];
    """)
    expect(found <= width, f"{name}: {found} px wide in {width}: {culprits}")
    expect(not culprits, f"{name}: sticks out on the right: {culprits}")
    height = min(12_000, browser.execute_script("return document.documentElement.scrollHeight"))
    shot = browser.execute_cdp_cmd(
        "Page.captureScreenshot",
        {
            "captureBeyondViewport": True,
            "clip": {"x": 0, "y": 0, "width": width, "height": height, "scale": 1},
        },
    )
    (pictures / f"{name}.png").write_bytes(base64.b64decode(shot["data"]))
    print(f"{name}: {width} px, {height} px high, nothing sticks out" if found <= width else name)


def check_structure(browser):
    """Check headings, images, landmarks and contrast, as assistive technology finds them."""
    levels = browser.execute_script(
        "return [...document.querySelectorAll('h1,h2,h3,h4,h5,h6')].map(e => +e.tagName[1])"
    )
    expect(levels[:1] == [1] and levels.count(1) == 1, f"headings begin with {levels[:3]}")
    jumps = [pair for pair in itertools.pairwise(levels) if pair[1] > pair[0] + 1]
    expect(not jumps, f"headings jump: {jumps[:3]}")
    blind = browser.execute_script(
        "return [...document.images].filter(i => !i.alt || !i.naturalWidth).length"
    )
    expect(blind == 0, f"{blind} images have no text, or no picture")
    nodes = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles = [node["role"]["value"] for node in nodes if not node.get("ignored") and "role" in node]
    for landmark in ("banner", "navigation", "main", "contentinfo"):
        expect(roles.count(landmark) == 1, f"{roles.count(landmark)} landmarks {landmark}")
    named = {"link", "image", "img", "navigation", "region", "table", "group", "graphics-document"}
    unnamed = [
        node["role"]["value"]
        for node in nodes
        if not node.get("ignored")
        and node.get("role", {}).get("value") in named - {"group"}
        and not node.get("name", {}).get("value")
    ]
    expect(not unnamed, f"without a name: {sorted(set(unnamed))}")
    faint = browser.execute_script(CONTRAST)
    expect(not faint, f"contrast below 4.5: {faint[:4]}")
    print(f"structure: {len(levels)} headings, {roles.count('link')} links, {roles.count('table')} tables")


CONTRAST = """
    const rgb = text => (text.match(/[\\d.]+/g) || []).map(Number);
    const light = c => { const f = c.slice(0, 3).map(v => v / 255).map(
        v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
        return .2126 * f[0] + .7152 * f[1] + .0722 * f[2]; };
    const behind = e => { for (; e; e = e.parentElement) {
        const c = rgb(getComputedStyle(e).backgroundColor); if (c.length === 3 || c[3] > 0) return c; }
        return [255, 255, 255]; };
    const out = [];
    for (const e of document.querySelectorAll('body *')) {
        if (e.closest('svg') || !e.checkVisibility()) continue;
        if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
        const a = light(rgb(getComputedStyle(e).color)) + .05, b = light(behind(e)) + .05;
        const ratio = Math.max(a, b) / Math.min(a, b);
        if (ratio < 4.5) out.push(ratio.toFixed(2) + ' ' + e.textContent.trim().slice(0, 30));
    }
    return out;
"""

FOCUSED = """
    const e = document.activeElement, s = getComputedStyle(e), r = e.getBoundingClientRect();
    const p = e.querySelector && e.querySelector('polygon');
    const seen = (s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2)
        || (p && parseFloat(getComputedStyle(p).strokeWidth) >= 4);
    const all = [...document.querySelectorAll('a[href], summary, [tabindex="0"]')];
    return [all.indexOf(e), e.tagName, !!seen, r.width > 0 && r.height > 0, e.outerHTML.slice(0, 80)];
"""


def check_keyboard(browser):
    """Press Tab: what takes the focus comes in the order of the page, and shows that it has it."""
    browser.execute_script("window.scrollTo(0, 0); document.activeElement.blur();")
    last, steps = -1, 0
    total = browser.execute_script(
        """return [...document.querySelectorAll('a[href], summary, [tabindex="0"]')].filter(
            e => e.checkVisibility()).length"""
    )
    while steps < min(total, MOST_TABS):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        index, tag, seen, there, text = browser.execute_script(FOCUSED)
        if tag == "BODY":
            break
        steps += 1
        expect(index > last, f"Tab goes back to {text}")
        expect(seen and there, f"the focus cannot be seen on {text}")
        last = index
    expect(steps == min(total, MOST_TABS), f"Tab reached {steps} of {total}")
    print(f"keyboard: {steps} of {total} stops in order, each visible")


def check_folding(browser):
    """Check that a link from the table to a folded scene unfolds it."""
    anchors = browser.execute_script(
        "return [...document.querySelectorAll('details > .scene')].map(e => e.id)"
    )
    if not anchors:
        return
    browser.execute_script(f"location.hash = '#{anchors[-1]}'")
    shown = browser.execute_script(
        f"const e = document.getElementById('{anchors[-1]}'); return [e.checkVisibility(),"
        "e.closest('details').open, e.closest('details').getBoundingClientRect().top < innerHeight]"
    )
    expect(all(shown), f"a link to {anchors[-1]} does not show it: {shown}")
    print(f"folding: {len(anchors)} scenes, a link unfolds them")


def check_print(browser, pictures, most):
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    answer = browser.execute_cdp_cmd(
        "Page.printToPDF",
        {"printBackground": True, "preferCSSPageSize": True, "paperWidth": 8.27, "paperHeight": 11.69},
    )
    content = base64.b64decode(answer["data"])
    (pictures / "print.pdf").write_bytes(content)
    pages = max(int(n) for n in re.findall(rb"/Count (\d+)", content))
    expect(1 <= pages <= most, f"{pages} printed pages, {most} at most were expected")
    print(f"print: {pages} pages")


def main():
    if sys.argv[1:] == ["--check"]:
        find()
        return
    page, pictures = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    pictures.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as profile:
        browser = start(profile)
        try:
            browser.get(page.as_uri())
            check_structure(browser)
            for name, width in WIDTHS.items():
                check_width(browser, name, width, pictures)
            check_keyboard(browser)
            scenes = browser.execute_script("return document.querySelectorAll('details').length")
            check_print(browser, pictures, 4 + scenes)
            check_folding(browser)
            check_silence(browser, page)
        finally:
            browser.quit()
    for problem in PROBLEMS:
        print(f"wrong: {problem}", file=sys.stderr)
    print(f"Chromium opened {page}; pictures: {pictures}")
    sys.exit(bool(PROBLEMS))


if __name__ == "__main__":
    main()
