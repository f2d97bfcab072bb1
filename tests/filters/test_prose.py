import re

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters.prose import PROSE_REASONS, ProseRules, judge_prose, measure_prose
from filters.text import UNSPACED, code_point_classes

STOP_WORDS = {"the", "be", "to", "of", "and", "that", "have", "with"}
SENTENCE = "The quick brown foxes jump over a lazy dog and run to the hill with joy.\n"


def arrow(*texts):
    return pa.array(list(texts), type=pa.large_string())


def unfenced(lines):
    fence = None
    for line in lines:
        found = re.fullmatch(r" {0,3}(?:(`{3,})([^`]*)|(~{3,})(.*))", line, re.DOTALL)
        mark, rest = ((found[1] or found[3]), (found[2] or found[4] or "")) if found else ("", "")
        if fence:
            if mark[:1] == fence[0] and len(mark) >= len(fence) and not rest.strip(" \t"):
                fence = None
        elif mark:
            fence = mark
        else:
            yield line


def words_of(line):
    unspaced = code_point_classes()
    for word in line.split():
        part = ""
        for character in word:
            if unspaced[ord(character)] & UNSPACED:
                yield from filter(None, [part, character])
                part = ""
            else:
                part += character
        if part:
            yield part


def oracle(text):
    """The counts in plain Python."""
    out = dict.fromkeys(measure_prose(arrow()).schema.names, 0)
    seen, stop_words = set(), set()
    for line in unfenced(re.split(r"\r\n|\r|\n", text)):
        stripped = line.strip()
        words = [word for word in words_of(line) if "://" not in word]
        out["n_words"] += len(words)
        out["word_chars"] += sum(map(len, words))
        out["alpha_words"] += sum(any(map(str.isalpha, word)) for word in words)
        out["alpha_chars"] += sum(map(str.isalpha, line))
        out["ascii_alpha_chars"] += len(re.findall("[A-Za-z]", line))
        out["hashes"] += stripped.lstrip("#").count("#")
        out["ellipses"] += len(re.findall(r"\.{3,}|…", line))
        stop_words |= {word.lower() for word in re.findall("[A-Za-z]+", line)} & STOP_WORDS
        if stripped:
            out["n_lines"] += 1
            out["line_chars"] += len(stripped)
            out["bullet_lines"] += bool(re.match(r"[-*+]\s|[•‣◦●▪·–]", line.lstrip()))
            out["ellipsis_lines"] += stripped.endswith(("...", "…"))
            out["repeated_lines"] += stripped in seen
            out["repeated_line_chars"] += len(stripped) * (stripped in seen)
            seen.add(stripped)
    return out | {"stop_words": len(stop_words)}


def reason(text, **thresholds):
    return PROSE_REASONS[judge_prose(measure_prose(arrow(text)), ProseRules(**thresholds))[0]]


def counts(text):
    return measure_prose(arrow(text)).to_pylist()[0]


MARKDOWN = st.lists(
    st.one_of(
        st.sampled_from(
            [
                "# a b #c",
                "- the x",
                "-x",
                "* y",
                "• z",
                "```",
                "``` py",
                "~~~",
                "  ~~~~",
                "```a```",
                "end...",
                "… .",
                "",
            ]
        ),
        st.sampled_from(
            ["漢字かな", "see https://x.y/z?q=the ok", "\tThe end\x0b", "That-have", "a://", "𝔘 😀 é", "to\u2028be"]
        ),
        st.text(
            st.one_of(st.sampled_from("ab the.#`~-*: /…\t漢"), st.characters(exclude_categories=["Cs"])), max_size=30
        ),
    ),
    max_size=30,
)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(MARKDOWN, st.sampled_from(["\n", "\r\n", "\r"])), max_size=4), st.integers(0, 2))
def test_the_kernel_counts_what_plain_python_counts_also_in_a_slice(documents, skip):
    texts = [end.join(lines) for lines, end in documents]
    measures = measure_prose(arrow(*texts)[skip:])
    assert all(field.type == pa.uint32() for field in measures.schema)
    assert measures.to_pylist() == [oracle(text) for text in texts[skip:]]


def test_many_lines_of_two_documents_are_not_taken_for_each_others():
    lines = "".join(f"line number {number}\n" for number in range(5000))
    assert measure_prose(arrow(lines, lines, lines + lines)).column("repeated_lines").to_pylist() == [0, 0, 5000]


def test_an_empty_text_has_too_few_words():
    assert reason("") == reason(" \n\t\n") == "few_words"


def test_50_words_are_enough_and_100000_are_not_too_many():
    assert reason("the and word " * 16 + "the word") == ""
    assert reason("the and word " * 16 + "the") == "few_words"
    assert reason("the and words here " * 25_000) == ""
    assert reason("the and words here " * 25_000 + "more") == "many_words"


def test_a_mean_word_length_of_exactly_3_or_10_is_kept():
    assert reason("the and cat " * 20) == ""
    assert reason("the and cat " * 20 + "to") == "word_length"
    long = "the and " + "abcdefghijk " * 48
    assert reason(long + "abcdef " * 2) == "word_length"
    assert reason("the and " + "abcdefghij " * 58 + "abcdefghijklmnopq " * 2) == ""
    assert reason("the and " + "abcdefghij " * 58 + "abcdefghijklmnopq " * 2 + "abcdefghijk") == "word_length"


def test_addresses_are_not_words():
    badge = "[![build](https://example.org/badge/of/a/very/long/address.svg)](https://example.org/builds)"
    assert (
        reason(
            SENTENCE * 5 + "different words " * 2 + badge,
            max_repeated_lines_percent=100,
            max_repeated_line_chars_percent=100,
        )
        == ""
    )
    assert counts(f"a {badge} b")["n_words"] == 2


def test_symbols_for_a_tenth_of_the_words_are_kept():
    text = "the and some word " * 25
    assert reason(text + "\nx" + "#" * 10) == "" == reason(text + " ... word" * 9)
    assert reason(text + "\nx" + "#" * 11) == "symbols"
    assert reason(text + " a...b" * 12) == "symbols"


def test_the_marks_of_headings_are_not_symbols():
    assert (
        reason(
            "## the and some word\n### more words here\n" * 15,
            max_repeated_lines_percent=100,
            max_repeated_line_chars_percent=100,
        )
        == ""
    )
    assert counts("## C# and F# ##")["hashes"] == 4


def test_bullets_on_nine_lines_of_ten_are_kept():
    item = [f"- the and {number} more words here" for number in range(19)]
    assert reason("\n".join([*item[:9], "the last"])) == ""
    assert reason("\n".join([*item, "the last"])) == "bullets"


def test_ellipses_at_the_end_of_three_lines_of_ten_are_kept():
    cut, whole = [f"the and other words {n}..." for n in range(4)], [f"the and other words {n}" for n in range(20)]
    assert reason("\n".join(cut[:3] + whole[:7])) == ""
    assert reason("\n".join([*cut, *whole[:9]])) == "ellipsis_lines"


def test_letters_in_three_words_of_five_are_kept():
    assert (
        reason("there and the 123 456\n" * 10, max_repeated_lines_percent=100, max_repeated_line_chars_percent=100)
        == ""
    )
    assert reason("there and the 123 456 " * 10 + "789") == "words_without_letter"


def test_two_different_stop_words_are_asked_of_text_in_ascii_letters():
    assert reason("the and word words " * 20) == ""
    assert reason("the the word words " * 20) == "stop_words"
    assert reason("слово разные слова " * 20) == ""


def test_text_without_spaces_between_words_is_counted_by_letters():
    assert reason("这是一个关于编码检测的测试文件，内容不重复。" * 3) == ""
    assert counts("漢字 kana かな")["n_words"] == 5


def test_repeated_lines_are_kept_up_to_the_threshold():
    lines = [f"the and other words {number}\n" for number in range(8)]
    text = "".join(lines) + lines[0] * 12
    assert reason(text, max_repeated_line_chars_percent=100) == ""
    assert reason(text + lines[0], max_repeated_line_chars_percent=100) == "repeated_lines"
    assert reason("".join(lines) + lines[0] * 8) == ""
    assert reason("".join(lines) + lines[0] * 9) == "repeated_line_chars"


def test_white_space_around_a_line_does_not_hide_its_repetition():
    assert counts("a b\n  a b\t\r\na  b\n")["repeated_lines"] == 1


def test_fenced_code_is_not_measured():
    code = "```python\n" + "x = [...] # y\n" * 50 + "```\n"
    assert reason(SENTENCE + code + SENTENCE.replace("fox", "cat") * 3, max_repeated_line_chars_percent=60) == ""
    assert counts(code) == dict.fromkeys(counts(""), 0)
    assert counts("~~~\n```\nx\n~~~~\ny")["n_words"] == 1
    assert counts("```not a fence``` at all\ny")["n_words"] == 6


def test_the_first_rule_that_drops_a_text_is_named():
    assert reason("# # # #") == "few_words"
    assert reason("a # # #", min_words=0) == "word_length"
    assert reason("a # # #", min_words=0, min_mean_word_chars=0) == "symbols"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_line_end_parts_lines(end):
    assert counts(end.join(["a", "b", "", "a"]))["n_lines"] == 3


def test_an_unknown_threshold_is_refused():
    with pytest.raises(ValueError, match="min_word"):
        ProseRules(min_word=3)
