"""The page of a report in a real browser, without a network: what a person sees on a desk, a phone and paper."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from edgeinfer.quantize.report.page import write_page
from reports import hostile_report, kws_report


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    write_page(kws_report(), folder / "kws.html", title="kws 1.0.0")
    write_page(hostile_report(), folder / "hostile.html", title="<script>document.title='hacked'</script>")
    return folder


class Visit:
    """An offline page that notes what it asks for and what it complains of."""

    def __init__(self, browser: Browser, *, width: int, dark: bool = False) -> None:
        self._context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme="dark" if dark else "light", offline=True
        )
        self.page: Page = self._context.new_page()
        self.page.set_default_timeout(60_000)
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def open(self, path: Path) -> Page:
        self.page.goto(path.as_uri())
        return self.page

    def close(self, path: Path) -> None:
        self._context.close()
        assert self.requests == [path.as_uri()]
        assert self.complaints == []


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (360, False)])
def test_it_opens_offline_and_fits(browser: Browser, files: Path, width: int, dark: bool) -> None:
    visit = Visit(browser, width=width, dark=dark)
    page = visit.open(files / "kws.html")
    expect(page.get_by_role("heading", name="kws 1.0.0")).to_be_visible()
    expect(page.get_by_text("Yes: ship litert-int8-weights", exact=False)).to_be_visible()
    expect(page.get_by_role("img")).to_have_count(2)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    red, green, blue = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")[:3]
    assert (red + green + blue < 200) == dark
    visit.close(files / "kws.html")


def test_texts_of_the_pictures_overlap_no_other(browser: Browser, files: Path) -> None:
    visit = Visit(browser, width=1280)
    page = visit.open(files / "kws.html")
    overlapping = page.evaluate(
        """() => [...document.querySelectorAll("svg.plot")].flatMap(svg => {
          const texts = [...svg.querySelectorAll("text")].map(t => [t.textContent, t.getBoundingClientRect()]);
          return texts.flatMap(([a, r], i) => texts.slice(i + 1).filter(([b, s]) =>
            r.left < s.right - 1 && s.left < r.right - 1 && r.top < s.bottom - 3 && s.top < r.bottom - 3)
            .map(([b]) => a + " / " + b));
        })"""
    )
    assert overlapping == []
    visit.close(files / "kws.html")


def test_texts_stand_out_from_what_they_stand_on(browser: Browser, files: Path) -> None:
    """WCAG 2.2, 1.4.3: a contrast of 4.5 for text."""
    for dark in (False, True):
        visit = Visit(browser, width=1280, dark=dark)
        page = visit.open(files / "kws.html")
        weak = page.evaluate(_CONTRAST)
        assert weak == []
        visit.close(files / "kws.html")


# Relative luminance and contrast as WCAG defines them.
_CONTRAST = """() => {
  const light = c => { const [r, g, b] = c.map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b; };
  const parse = s => { const n = s.match(/[\\d.]+/g).map(Number);
    const scale = s.startsWith("color(srgb") ? 255 : 1;
    return [n[0] * scale, n[1] * scale, n[2] * scale, n[3] ?? 1]; };
  const behind = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
    if (c[3] > 0) return c; } return [255, 255, 255, 1]; };
  const weak = [];
  for (const e of document.querySelectorAll("body *:not(script):not(svg *)")) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) continue;
    const a = light(parse(getComputedStyle(e).color)), b = light(behind(e));
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) weak.push(`${e.tagName} ${e.className} ${e.textContent.trim().slice(0, 30)} ${ratio.toFixed(2)}`);
  }
  return weak;
}"""


def test_columns_sort_by_mouse_and_keyboard(browser: Browser, files: Path) -> None:
    visit = Visit(browser, width=1280)
    page = visit.open(files / "kws.html")
    table = page.locator("#candidates table")
    names = table.locator("tbody th .name")
    size = table.get_by_role("button", name="size")
    size.click()
    assert names.all_text_contents()[0] == "litert-int8-weights-mixed4-3"
    expect(table.locator("th[aria-sort=ascending]")).to_have_count(1)
    size.press("Enter")
    assert names.all_text_contents()[0] == "litert-fp32"
    refused = page.get_by_role("region", name="Refused candidates")
    for _ in range(2):
        refused.get_by_role("button", name="agreement").click()
        # What has no figure stays at the end.
        assert set(refused.locator("tbody th .name").all_text_contents()[-2:]) == {"onnx-weights4", "openvino-int8"}
    visit.close(files / "kws.html")


def test_it_prints(browser: Browser, files: Path, tmp_path: Path) -> None:
    visit = Visit(browser, width=1280, dark=True)
    page = visit.open(files / "kws.html")
    page.pdf(path=tmp_path / "report.pdf", format="A4", print_background=False)
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    visit.close(files / "kws.html")


def test_names_run_no_script(browser: Browser, files: Path) -> None:
    visit = Visit(browser, width=1280)
    page = visit.open(files / "hostile.html")
    assert page.title() == "<script>document.title='hacked'</script>: quantization report"
    assert page.locator("img").count() == 0
    # The page's own policy keeps a script out even where one were in the text.
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'document.title = 1'}))")
    assert page.title().startswith("<script>")
    assert len(visit.complaints) == 1
    assert "Content Security Policy" in visit.complaints.pop()
    visit.close(files / "hostile.html")
