import html as entities

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters.html import Extracted, extract, flatten_tables


def text_of(page, charset=""):
    return extract(page if isinstance(page, bytes) else page.encode(), charset).text


LINES = st.text(
    st.one_of(st.sampled_from(" \t{}<&>;#'\"a0\ue000\uf8ff"), st.characters(exclude_categories=["Cc", "Cs"])),
    max_size=40,
)
PRINTED = LINES.filter(lambda line: line.strip() and "\ufeff" not in line)


@settings(deadline=None)
@given(
    st.lists(PRINTED, min_size=1, max_size=8),
    st.sampled_from(["{}", "<ul><li>{}<li>x</ul>", "<table><tr><td>a<td>{}<td>b</table>", "a{}b"]),
)
def test_the_lines_of_a_pre_are_kept_exactly_wherever_it_stands(lines, around):
    pre = "<pre>" + entities.escape("\n".join(lines)) + "</pre>"
    assert "\n" + "\n".join(lines) + "\n" in "\n" + text_of("<meta charset=utf-8><p>before" + around.format(pre)) + "\n"


def test_private_use_characters_of_a_page_are_never_taken_for_placeholders():
    page = "<p>\ue0000\ue001 &#xE000;0&#xE001; &#0;0&#0; \x000\x00 <pre>  code</pre>"
    raw = b" " * 9000 + page.encode()
    assert text_of(raw) == "\ue0000\ue001 \ue0000\ue001 \ufffd0\ufffd 0\n\n  code"


def test_indentation_blank_lines_and_tabs_of_code_are_kept():
    code = "def f():\n\tif x:\n\n        return  1  # two\n"
    assert text_of(f"<pre>{code}</pre>") == code.rstrip("\n")


def test_highlighted_code_loses_its_markup_and_nothing_else():
    page = '<div class="highlight"><pre><span></span><span class="k">for</span> i:\n    <b>pass</b></pre></div>'
    assert text_of(page) == "for i:\n    pass"


def test_line_numbers_beside_code_are_cut():
    page = '<table><tr><td class="linenos"><pre>1\n2</pre></td><td class="code"><pre>a\n  b</pre></td></tr></table>'
    assert text_of(page).strip(" |\n") == "a\n  b"
    assert text_of('<pre><span class="lineno">1</span>a</pre>') == "a"


def test_code_in_the_rows_of_a_table_is_kept_exactly():
    row = '<tr><td class="blob-num" data-line-number="1"></td><td class="blob-code">{}\n</td></tr>'
    page = "<table>" + row.format("<b>def</b> f():") + row.format("    return  1") + "</table>"
    assert text_of(page) == "def f():\n    return  1"


def test_breaks_and_list_items_inside_a_pre_are_lines():
    assert text_of("<pre>a<br>  b</pre>") == "a\n  b"
    assert text_of("<pre><ol><li>a</li><li>  b</li></ol></pre>") == "a\n  b"


def test_a_pre_inside_a_pre_is_not_printed_twice():
    assert text_of("<pre>a<pre>b</pre>c</pre>") == "abc"


def test_crlf_in_code_becomes_lf():
    assert text_of(b"<pre>a\r\n  b\rc</pre>") == "a\n  b\nc"


def test_blocks_lists_and_tables_are_readable():
    page = "<h1>T</h1><p>one\n two<p>three<ul><li>x<li>y</ul><table><tr><th>k<th>v<tr><td>1<td><p>2</p></table>end"
    assert text_of(page) == "T\n\none two\n\nthree\n\n* x\n* y\n\nk | v\n1 | 2\n\nend"


def test_the_title_stands_apart():
    assert extract(b"<title> A\n b &amp; c</title><p>x") == Extracted("x", "A b & c")


@pytest.mark.parametrize(
    "boilerplate",
    [
        "<nav>n</nav>",
        "<header>n</header>",
        "<footer>n</footer>",
        "<aside>n</aside>",
        "<script>n()</script>",
        "<style>n{}</style>",
        "<form><input value=n><label>n</label></form>",
        "<noscript>n</noscript>",
        "<template>n</template>",
        '<div role="navigation">n</div>',
        "<!-- n -->",
    ],
)
def test_boilerplate_is_cut(boilerplate):
    assert text_of(f"<body>{boilerplate}<p>text</p>{boilerplate}") == "text"


def test_the_header_of_an_article_and_a_form_around_the_page_stay():
    assert text_of("<article><header><h1>T</h1></header><p>x</article>") == "T\n\nx"
    assert text_of("<main><header>T</header></main>") == "T"
    assert text_of("<form><h1>T</h1><p>x</form>") == "T\n\nx"


def test_the_permalink_sign_of_a_heading_is_cut():
    assert text_of('<h1>T<a class="headerlink" href="#t">¶</a></h1>') == "T"


def test_tex_sources_take_the_place_of_what_is_drawn_from_them():
    katex = (
        '<span class="katex"><span class="katex-mathml"><math><semantics><mrow><mi>p</mi></mrow>'
        '<annotation encoding="application/x-tex">p_1 \\le 2</annotation></semantics></math></span>'
        '<span class="katex-html" aria-hidden="true">p1</span></span>'
    )
    assert text_of(f"<p>a {katex} b") == "a $p_1 \\le 2$ b"
    assert text_of(f'<span class="katex-display">{katex}</span>') == "$$p_1 \\le 2$$"
    assert text_of('<p>a <script type="math/tex">x^2</script> b') == "a $x^2$ b"
    assert text_of('<p><script type="math/tex; mode=display">x^2</script>') == "$$x^2$$"


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "empty"),
        (b"<nav>x</nav>", "empty"),
        (b"<p> &nbsp;\n", "empty"),
        (b"%PDF\0\1", "binary"),
        (b"\xff\xfeab\0\xd8", "undecodable"),
    ],
)
def test_a_page_without_text_names_its_reason(raw, reason):
    assert extract(raw) == Extracted(None, "", reason)


def test_the_charset_comes_from_the_transport_then_from_the_page():
    assert text_of("<p>größe".encode("latin1"), "iso-8859-1") == "größe"
    assert text_of("<meta charset='koi8-r'><p>Привет".encode("koi8-r")) == "Привет"
    assert (
        text_of('<meta http-equiv="content-type" content="text/html; charset=Shift_JIS"><p>漢字'.encode("cp932"))
        == "漢字"
    )
    assert text_of("<p>größe".encode("utf-16")) == "größe"


def test_a_broken_byte_in_a_utf_8_page_costs_one_character():
    for mark in ("", "\ufeff"):
        assert text_of(f"{mark}<p>größe und übung ".encode() + b"\xff.") == "größe und übung \ufffd."


def test_surrogates_written_as_references_become_replacement_characters():
    assert text_of("<p>&#xD800;&#xDFFF;x") == "\ufffd\ufffdx"


HOSTILE = {
    "nested": "<div>" * 100_000 + "x",
    "nested pre": "<pre>" * 100_000 + "x",
    "nested lists": "<ul><li>" * 20_000 + "x",
    "nested tables": "<table><tr><td>" * 30_000 + "x",
    "wide column": "<table><tr><td>" + "x" * 20_000 + "<td>" + "<tr><td>a<td>b" * 20_000,
    "many columns": "<table><tr>" + "<td>" * 5_000 + "<tr><td>x" * 5_000,
    "spans": "<table><tr><td colspan=1000 rowspan=65534>x<td>y" * 1_000,
    "headers": "<div>" * 50_000 + "<header>x</header>" * 20_000,
    "deep formulas": "<div>" * 50_000 + "<script type=math/tex>a</script>" * 5_000,
    "entities": "&#xD800;&#0;&bogus;&#x110000;&" * 20_000,
    "spaces": "<textarea>" + " " * 200_000 + "x",
    "comments": "<!--" * 50_000,
    "attributes": "<p " + " ".join(f"a{number}=1" for number in range(30_000)) + ">x",
    "one line": "word " * 400_000,
}


@pytest.mark.parametrize("page", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_page_gives_no_more_text_than_a_few_times_its_size(page):
    extracted = extract(page.encode())
    assert len(extracted.text or "") <= 4 * len(page)


@settings(deadline=None)
@given(
    st.text(st.sampled_from("<>/ab&;=\"' \n!-\x00é\ue000"), max_size=200),
    st.sampled_from(["", "<pre>", "<table>", "<li>"]),
)
def test_any_markup_gives_text_without_nuls_or_a_reason(markup, before):
    extracted = extract((before + markup).encode())
    assert (extracted.text is None) == (extracted.reason is not None)
    assert "\0" not in (extracted.text or "")


@settings(deadline=None)
@given(st.binary(max_size=200), st.text(max_size=10))
def test_any_bytes_give_text_or_a_reason(raw, charset):
    extracted = extract(raw, charset)
    assert (extracted.text is None) == (extracted.reason is not None)
    (extracted.text or "").encode()


def test_flat_tables_have_a_line_for_each_row():
    import turbohtml

    document = turbohtml.parse("<table><caption>c</caption><tr><th>a<th>b<tr><td>1<td>2</table>")
    flatten_tables(document, "; ")
    assert document.to_text() == "c\n\na; b\n1; 2"
