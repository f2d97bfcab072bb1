import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters.rules import CodeRules, judge_code, measure, visible_chars, visible_text

COLUMNS = ["n_chars", "n_lines", "max_line_chars", "line_chars", "alpha_chars", "xml_prolog"]
TEXTS = st.text(st.one_of(st.sampled_from("aZ0 \t\r\n<?é漢𝔘"), st.characters(exclude_categories=["Cs"])), max_size=300)


def arrow(*texts):
    return pa.array(list(texts), type=pa.large_string())


def oracle(text):
    """The counts in plain Python, by a regular expression over the whole text."""
    lines = re.split(r"\r\n|\r|\n", text)
    if lines[-1] == "":
        lines.pop()
    at = text.find("<?xml version=")
    return {
        "n_chars": len(text),
        "n_lines": len(lines),
        "max_line_chars": max(map(len, lines), default=0),
        "line_chars": sum(map(len, lines)),
        "alpha_chars": sum(map(str.isalpha, text)),
        "xml_prolog": at + 14 if 0 <= at <= 1000 - 14 else 0,
    }


def judge(text, language="Python", rules=CodeRules(), visible=None):  # noqa: B008 - frozen
    seen = visible_chars(text) if visible is None else visible
    return int(judge_code(measure(arrow(text)), pa.array([language]), np.array([seen], np.uint32), rules)[0])


@settings(deadline=None)
@given(st.lists(TEXTS, max_size=6), st.integers(0, 3))
def test_the_kernel_counts_what_plain_python_counts_also_in_a_slice(texts, skip):
    measures = measure(arrow(*texts)[skip:])
    assert measures.schema.names == COLUMNS
    assert all(field.type == pa.uint32() for field in measures.schema)
    assert measures.to_pylist() == [oracle(text) for text in texts[skip:]]


@settings(deadline=None)
@given(TEXTS, TEXTS)
def test_the_kernel_finds_the_xml_prolog_where_plain_python_finds_it(before, after):
    text = before * 5 + "<?xml version=" + after
    assert measure(arrow(text)).to_pylist() == [oracle(text)]


def test_an_empty_file_has_no_lines_and_too_few_letters():
    assert measure(arrow("")).to_pylist() == [dict.fromkeys(COLUMNS, 0)]
    assert judge("") == 2


def test_no_files_give_no_rows():
    assert measure(arrow()).num_rows == 0
    assert len(judge_code(measure(arrow()), pa.array([], pa.string()), np.zeros(0, np.uint32), CodeRules())) == 0


def test_an_array_that_is_not_large_string_or_holds_a_null_is_refused():
    with pytest.raises(TypeError, match="large_string"):
        measure(pa.array(["a"]))
    with pytest.raises(TypeError, match="1 nulls"):
        measure(arrow("a", None))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lf_crlf_and_a_lone_cr_end_a_line_and_do_not_count(end):
    row = measure(arrow(f"ab{end}{end}abc{end}")).to_pylist()[0]
    assert (row["n_lines"], row["max_line_chars"], row["line_chars"]) == (3, 3, 5)


def test_a_last_line_without_a_line_end_is_a_line():
    assert measure(arrow("a\nb")).to_pylist()[0]["n_lines"] == measure(arrow("a\nb\n")).to_pylist()[0]["n_lines"] == 2


def test_other_line_separators_of_unicode_do_not_end_a_line():
    assert measure(arrow("a\u2028b\x0cc\x85d")).to_pylist()[0]["n_lines"] == 1


def test_characters_beyond_the_bmp_count_once():
    assert measure(arrow("𝔘😀\n")).to_pylist() == [oracle("𝔘😀\n")]
    assert measure(arrow("𝔘😀\n")).to_pylist()[0] | {"n_chars": 3, "alpha_chars": 1, "max_line_chars": 2} == oracle(
        "𝔘😀\n"
    )


def test_a_file_with_a_line_of_exactly_1000_characters_is_kept():
    filler = "\n" * 20
    assert judge("a" * 1000 + filler) == 0
    assert judge("a" * 1001 + filler) == 1
    assert judge("𝔘" * 1000 + "\r\n" + filler) == 0
    assert judge(filler + "a" * 1001) == 1


def test_an_average_line_of_exactly_100_characters_is_kept():
    assert judge("a" * 100) == 0
    assert judge("a" * 101) == 1
    assert judge("a" * 99 + "\n" + "a" * 101) == 0
    assert judge("a" * 100 + "\n" + "a" * 101 + "\n") == 1
    assert judge("a" * 200 + "\r\n\r\n") == 0


def test_exactly_a_quarter_of_alphabetic_characters_is_kept():
    assert judge("a" * 25 + "1" * 75) == 0
    assert judge("a" * 24 + "1" * 76) == 2
    assert judge("a" + "1" * 3) == 0
    assert judge("a" + "1" * 2 + "\n") == 0
    assert judge("a" + "1" * 3 + "\n") == 2
    assert judge("漢" + "1" * 3) == 0
    assert judge("😀" + "1" * 3) == 2


def test_the_xml_prolog_must_lie_whole_in_the_first_100_characters_to_drop_a_file():
    assert judge("a" * 86 + "<?xml version=") == 3
    assert judge("a" * 87 + "<?xml version=" + "\n" * 9) == 0
    assert judge("a\n" * 43 + "a" + "<?xml version=") == 0
    assert judge("a\n" * 43 + "<?xml version=") == 3
    assert judge("😀a\n" * 28 + "aa" + "<?xml version=") == 3
    assert judge("😀a\n" * 29 + "<?xml version=") == 0
    assert judge("<?XML version='1.0'?>") == 0


def test_xslt_may_start_with_an_xml_prolog():
    text = '<?xml version="1.0"?><xsl:stylesheet/>'
    assert judge(text, "XSLT") == 0
    assert judge(text, "Python") == 3


def test_another_prolog_threshold_needs_no_text():
    measures = measure(arrow("a\n" * 100 + "<?xml version="))
    none = np.zeros(1, np.uint32)
    assert judge_code(measures, pa.array(["C"]), none, CodeRules()).tolist() == [0]
    assert judge_code(measures, pa.array(["C"]), none, CodeRules(xml_prolog_chars=213)).tolist() == [0]
    assert judge_code(measures, pa.array(["C"]), none, CodeRules(xml_prolog_chars=214)).tolist() == [3]


@pytest.mark.parametrize(("visible", "verdict"), [(99, 4), (100, 0)])
def test_html_needs_100_visible_characters(visible, verdict):
    assert judge("a" * 50, "HTML", visible=visible) == verdict


@pytest.mark.parametrize(("visible", "verdict"), [(199, 4), (200, 0)])
def test_html_needs_a_fifth_of_it_visible(visible, verdict):
    assert judge(("a" * 99 + "\n") * 10, "HTML", visible=visible) == verdict


def test_the_rule_for_visible_text_leaves_other_languages_alone():
    for language in ("HTML Django", "HTML ERB", "PHP", "other:HTM"):
        assert judge("a" * 50, language, visible=0) == 0


@pytest.mark.parametrize("language", ["JSON", "other:YAML"])
@pytest.mark.parametrize(("chars", "verdict"), [(49, 5), (50, 0), (5000, 0), (5001, 5)])
def test_json_and_yaml_keep_50_to_5000_characters(language, chars, verdict):
    text = ("a" * 49 + "\n") * 101
    assert judge(text[:chars], language) == verdict
    assert judge(text[:chars], "Python") == 0


def test_the_first_rule_that_drops_a_file_is_named():
    text = "<?xml version=" + "1" * 1000
    languages = pa.array(["JSON", "HTML", "XSLT"])
    rules = CodeRules(max_average_line=9999, max_line=9999)
    none = np.zeros(3, np.uint32)
    assert judge_code(measure(arrow(*[text] * 3)), languages, none, CodeRules()).tolist() == [1, 1, 1]
    assert judge_code(measure(arrow(*[text] * 3)), languages, none, rules).tolist() == [2, 2, 2]
    lax = rules.model_copy(update={"min_alpha_percent": 0})
    assert judge_code(measure(arrow(*[text] * 3)), languages.dictionary_encode(), none, lax).tolist() == [3, 3, 0]


def test_rules_1_to_3_leave_rows_that_are_not_code_alone():
    texts = arrow("1" * 60 + "\n" * 20, "<?xml version=" + "1" * 2000, "1" * 6000)
    yaml = pa.array(["other:YAML"] * 3)
    judged = judge_code(measure(texts), yaml, np.zeros(3, np.uint32), CodeRules(), code=np.zeros(3, np.bool_))
    assert judged.tolist() == [0, 0, 5]


def test_an_unknown_threshold_is_refused():
    with pytest.raises(ValueError, match="max_lines"):
        CodeRules(max_lines=3)


def test_visible_text_is_what_a_browser_draws():
    page = (
        "<html><head><title>t</title><style>s{}</style></head><body><!-- c --><h1>One</h1> <p>two <b>th</b>ree&amp;</p>"
        "<script>x()</script><template>u</template><noscript>n</noscript><table><tr><td>4<td>5<tr><td>6</table>"
    )
    assert visible_text(page) == "One two three& 4 5 6"
    assert visible_text(page.encode()) == visible_text(page)
    assert visible_chars(page) == 20


def test_visible_text_of_what_is_not_text_is_empty():
    assert visible_text(b"\0\1\2") == ""
    assert visible_text("") == ""


@pytest.mark.parametrize(
    "page",
    [
        "<div>" * 100_000 + "x",
        "<table><tr><td>" * 30_000 + "x",
        "<table><tr><td>" + "x" * 20_000 + "<td>" + "<tr><td>a<td>b" * 20_000,
        "<table><tr>" + "<td>" * 5_000 + "<tr><td>x" * 5_000,
        "<ul><li>" * 50_000 + "x",
        "&" * 200_000,
        "<!--" * 50_000,
    ],
    ids=["nested", "nested tables", "wide column", "many columns", "lists", "entities", "comments"],
)
def test_visible_text_is_no_longer_than_a_hostile_page(page):
    assert len(visible_text(page)) <= len(page)


@settings(deadline=None)
@given(st.text(st.sampled_from("<>/ab&;=\"' \n!-\x00é"), max_size=200))
def test_visible_text_never_raises_and_is_collapsed(page):
    text = visible_text(page)
    assert text == " ".join(text.split())
