"""Where a model's code block belongs in a text, and what it leaves alone."""

from __future__ import annotations

import contextlib
import difflib
import textwrap
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctx_lsp.chat.anchoring import Anchored, UnsureError, anchor


def applied(text: str, anchored: Anchored) -> str:
    end = len(text)
    for edit in reversed(anchored.edits):
        assert edit.start <= edit.end <= end, "edits are in order and apart"
        text, end = text[: edit.start] + edit.text + text[edit.end :], edit.start
    return text


def result(text: str, block: str, language: str | None = None) -> str:
    return applied(text, anchor(text, block, language))


def code(text: str) -> str:
    return textwrap.dedent(text).lstrip("\n")


MODULE = code(
    '''
    import os
    import sys


    class Parser:
        """Parses."""

        limit = 3

        def parse(self, text):
            return text.split()

        def reset(self):
            self.text = ""


    @cached
    def run(text):
        """Runs."""
        print(text)
        return 3
    '''
)

# -- diffs -------------------------------------------------------------------------------------------------------------


def diff(old: str, new: str, context: int = 3) -> str:
    """As git writes it."""
    lines = difflib.unified_diff(old.splitlines(True), new.splitlines(True), "a/x", "b/x", n=context)
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


LINE = st.sampled_from(["a", "b", "c", "", "    a", "}", "-- x", "++ y", "@ z"])
TEXT = st.builds(lambda lines, end: "\n".join(lines) + ("\n" if end and lines else ""), st.lists(LINE), st.booleans())


@given(TEXT, TEXT)
def test_a_diff_makes_of_the_old_text_the_new_one(old: str, new: str) -> None:
    if diff(old, new):
        assert result(old, diff(old, new)) == new


@given(TEXT, TEXT)
def test_line_ends_stay_as_the_text_has_them(old: str, new: str) -> None:
    if diff(old, new) and "\n" in old:
        assert result(old.replace("\n", "\r\n"), diff(old, new)) == new.replace("\n", "\r\n")


@st.composite
def edited(draw: st.DrawFn) -> tuple[list[str], list[str], list[str], list[str]]:
    """A text in two parts, the first one changed by the model, the second one meanwhile by the user."""
    lines = [f"line {number}" for number in range(draw(st.integers(14, 30)))]
    middle = len(lines) // 2
    head, tail = lines[:middle], lines[middle:]
    return head, draw(changed(head, "model")), tail, tail[:4] + draw(changed(tail[4:], "user"))


def changed(lines: Sequence[str], author: str) -> st.SearchStrategy[list[str]]:
    """Some lines changed, dropped or added."""

    def change(choices: list[int]) -> list[str]:
        texts = []
        for line, choice in zip(lines, choices, strict=True):
            texts += [[line], [line], [f"{line}, {author}"], [], [line, f"{author} added to {line}"]][choice]
        return texts

    return st.lists(st.integers(0, 4), min_size=len(lines), max_size=len(lines)).map(change)


@given(edited(), st.booleans())
def test_a_diff_keeps_what_was_edited_elsewhere(parts: tuple[list[str], ...], is_first: bool) -> None:
    head, new_head, tail, new_tail = parts
    if not is_first:
        head, new_head, tail, new_tail = tail, head and new_tail, head, new_head
    old, model, user, both = (
        "".join(f"{line}\n" for line in (first + second if is_first else second + first))
        for first, second in ((head, tail), (new_head, tail), (head, new_tail), (new_head, new_tail))
    )
    if not diff(old, model):
        return
    try:
        assert result(user, diff(old, model)) == both
    except UnsureError:
        assert not is_first, "the user left the context of the model's changes as it was"


@pytest.mark.parametrize("header", ["@@", "@@ ... @@", "@@ def run(text): @@", "@@ -900,3 +900,3 @@"])
def test_a_diff_needs_no_right_line_numbers(header: str) -> None:
    block = f"{header}\n     print(text)\n-    return 3\n+    return 4\n"
    assert result(MODULE, block) == MODULE.replace("return 3", "return 4")


def test_a_diff_may_count_its_lines_wrong() -> None:
    block = "@@ -1,9 +1,9 @@\n import os\n-import sys\n+import re\n@@ -2,1 +2,7 @@\n     print(text)\n-    return 3\n"
    assert result(MODULE, block) == MODULE.replace("import sys", "import re").replace("    return 3\n", "")


def test_a_diff_without_header() -> None:
    block = ' def run(text):\n     """Runs."""\n-    print(text)\n     return 3\n'
    assert result(MODULE, block, "diff") == MODULE.replace("    print(text)\n", "")


def test_context_that_a_model_misremembers_stays_as_it_is() -> None:
    block = '@@\n def run(text):\n     """Runs it."""\n     print(text)\n-    return 3\n+    return 4\n'
    anchored = anchor(MODULE, block)
    assert applied(MODULE, anchored) == MODULE.replace("return 3", "return 4")
    assert anchored.how == "fuzzy"


def test_a_line_number_tells_equal_places_apart() -> None:
    text = "x\ny\n" * 5
    assert result(text, "@@ -5,2 +5,2 @@\n x\n-y\n+z\n") == "x\ny\n" * 2 + "x\nz\n" + "x\ny\n" * 2
    with pytest.raises(UnsureError, match="several places"):
        anchor(text, "@@\n x\n-y\n+z\n")


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        ("@@\n gone\n-away\n+new\n", "not there"),
        ("@@ -3,0 +3,1 @@\n+new\n", "quotes nothing"),
        ("@@ -1,1 +1,1 @@\n import os\n", "changes nothing"),
        ("@@\n-import os\n@@\n-import os\n", "not there"),
    ],
)
def test_diffs_that_fit_nowhere(block: str, reason: str) -> None:
    with pytest.raises(UnsureError, match=reason):
        anchor(MODULE, block)


# -- search and replace ------------------------------------------------------------------------------------------------


def search(old: str, new: str) -> str:
    return f"<<<<<<< SEARCH\n{old}\n=======\n{new}\n>>>>>>> REPLACE\n"


def test_search_blocks_in_any_order() -> None:
    block = search("    return 3", "    return 4") + "and\n" + search("import sys\n", "import re\n")
    expected = MODULE.replace("return 3", "return 4").replace("import sys", "import re")
    assert result(MODULE, block) == expected
    assert anchor(MODULE, block).how == "exact"


def test_a_search_block_at_another_indentation() -> None:
    anchored = anchor(MODULE, search("def reset(self):\n    self.text = ''", "def reset(self):\n    self.clear()"))
    assert applied(MODULE, anchored) == MODULE.replace('self.text = ""', "self.clear()")
    assert anchored.how == "fuzzy"


@given(st.lists(st.text(alphabet="ab \t", max_size=6), min_size=1, max_size=6), st.integers(0, 9), st.integers(0, 9))
def test_a_search_that_is_there_once_is_replaced_there(lines: list[str], start: int, end: int) -> None:
    start, end = sorted((start % len(lines), end % len(lines)))
    text, old = "".join(f"{line}\n" for line in lines), lines[start : end + 1]
    places = [at for at in range(len(lines)) if lines[at : at + len(old)] == old]
    block = search("\n".join(old), "new\nlines")
    if len(places) == 1:
        assert result(text, block) == "".join(
            f"{line}\n" for line in [*lines[:start], "new", "lines", *lines[end + 1 :]]
        )
    else:
        with pytest.raises(UnsureError):
            anchor(text, block)


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (search("nowhere", "x"), "not there"),
        (search("import os", "a") + search("import os\nimport sys", "b"), "same lines"),
        ("<<<<<<< SEARCH\nimport os\n", "no end"),
        ("<<<<<<< SEARCH\nimport os\n>>>>>>> REPLACE\n", "no end"),
        ("<<<<<<< SEARCH\n=======\nx\n>>>>>>> REPLACE\n", "quotes nothing"),
    ],
)
def test_search_blocks_that_fit_nowhere(block: str, reason: str) -> None:
    with pytest.raises(UnsureError, match=reason):
        anchor(MODULE, block)


# -- definitions -------------------------------------------------------------------------------------------------------


def test_a_function_takes_the_place_of_its_namesake() -> None:
    block = "@cached\ndef run(text, again=False):\n    return 4\n"
    anchored = anchor(MODULE, block)
    assert applied(MODULE, anchored) == MODULE[: MODULE.index("@cached")] + block
    assert (anchored.how, anchored.summary) == ("exact", "def run")


def test_decorators_go_with_their_function() -> None:
    assert result(MODULE, "def run(text):\n    return 4\n").endswith(
        'self.text = ""\n\n\ndef run(text):\n    return 4\n'
    )


def test_a_method_is_put_where_its_class_has_it() -> None:
    anchored = anchor(MODULE, "def reset(self):\n    self.text = None\n\n    self.done = False\n")
    expected = "        self.text = None\n\n        self.done = False\n"
    assert applied(MODULE, anchored) == MODULE.replace('        self.text = ""\n', expected)
    assert anchored.how == "fuzzy"


def test_an_excerpt_of_a_class_changes_only_what_it_has() -> None:
    block = code(
        """
        class Parser:
            def parse(self, text):
                return list(text)

            def close(self):
                pass
        """
    )
    expected = MODULE.replace("return text.split()\n", "return list(text)\n\n    def close(self):\n        pass\n")
    assert result(MODULE, block) == expected


def test_new_definitions_go_behind_the_one_before_them() -> None:
    block = "def run(text):\n    return helper(text)\n\n\ndef helper(text):\n    return text\n"
    assert result(MODULE, block).endswith('""\n\n\n' + block)


TYPESCRIPT = code(
    """
    import { a } from "./a";

    // Adds.
    export function add(x: number, y: number): number {
      return x + y;
    }

    export const twice = (x: number) => {
      return add(x, x);
    };

    export class Box<T> {
      constructor(private value: T) {}

      get(): T {
        return this.value;
      }
    }
    """
)
GO = "package box\n\nfunc (b *Box) Get() int {\n\treturn b.value\n}\n\nfunc (c *Cup) Get() int {\n\treturn c.value\n}\n"


@pytest.mark.parametrize(
    ("text", "block", "old", "new"),
    [
        (TYPESCRIPT, "function add(x: number, y: number): number {\n  return y + x;\n}", None, None),
        (
            TYPESCRIPT,
            "export function add(x: number, y: number): number {\n  return y + x;\n}",
            "return x + y;",
            "return y + x;",
        ),
        (
            TYPESCRIPT,
            "// Adds two.\nexport function add(x: number, y: number): number {\n  return x + y;\n}",
            "// Adds.",
            "// Adds two.",
        ),
        (
            TYPESCRIPT,
            "export const twice = (x: number) => {\n  return 2 * x;\n};",
            "return add(x, x);",
            "return 2 * x;",
        ),
        (GO, "func (c *Cup) Get() int {\n\treturn 0\n}", "return c.value", "return 0"),
    ],
)
def test_other_languages(text: str, block: str, old: str | None, new: str | None) -> None:
    if old is None or new is None:
        assert result(text, block) == text.replace("export function", "function").replace("x + y", "y + x")
    else:
        assert result(text, block) == text.replace(old, new)


@pytest.mark.parametrize(
    ("text", "block", "reason"),
    [
        ("def f():\n    pass\n\n\ndef f():\n    return\n", "def f():\n    return 1\n", "several times"),
        (MODULE, "class Parser:\n    other = 1\n\n    def parse(self, text):\n        pass\n", "lacks def reset"),
        (MODULE, "def unknown():\n    pass\n", "nothing in the text"),
        ('def f():\n    x = """\nout\n"""\n    return x\n', "def f():\n    return 1\n", "can't be told"),
        (MODULE, "\n \n", "empty"),
        (MODULE, "print('hello')\n", "nothing in the text"),
    ],
)
def test_blocks_whose_place_is_unsure(text: str, block: str, reason: str) -> None:
    with pytest.raises(UnsureError, match=reason):
        anchor(text, block)


# -- what is left out --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ellipsis",
    ["# ...", "# … existing code …", "# ... rest of the class ...", "# ... (other methods)", "# existing code here..."],
)
def test_what_an_ellipsis_stands_for_stays(ellipsis: str) -> None:
    block = f"import os\nimport sys\nimport json\n\n{ellipsis}\n\ndef run(text):\n    print(json)\n    return 3\n"
    expected = MODULE.replace("import sys\n", "import sys\nimport json\n")
    expected = expected[: expected.index("@cached")] + "def run(text):\n    print(json)\n    return 3\n"
    assert result(MODULE, block) == expected


def test_an_ellipsis_within_a_function() -> None:
    block = 'def run(text):\n    """Runs."""\n    text = text.strip()\n    # ... existing code ...\n    return 4\n'
    expected = MODULE.replace("    print(text)\n    return 3", "    text = text.strip()\n    print(text)\n    return 4")
    assert result(MODULE, block) == expected


def test_an_ellipsis_within_a_class() -> None:
    methods = "    def reset(self):\n        self.text = None\n\n    def close(self):\n        pass\n"
    block = f"class Parser:\n    # ... existing code ...\n\n{methods}"
    expected = MODULE.replace('self.text = ""\n', "self.text = None\n\n    def close(self):\n        pass\n")
    assert result(MODULE, block) == expected


def test_new_code_behind_an_ellipsis_goes_to_the_end() -> None:
    block = "// ... existing code ...\n\nexport function zero() {\n  return this.value;\n}\n"
    assert result(TYPESCRIPT, block) == TYPESCRIPT + "\nexport function zero() {\n  return this.value;\n}\n"


@pytest.mark.parametrize(
    "block",
    [
        "# ...\nprint('hello')\n# ...\n",
        "import os\nprint('hello')\n# ...\n    x = 1\n",
        "import os\n# ...\n    x = 1\n    y = 2\n    return 3\n# ...\n",
    ],
)
def test_parts_that_fit_nowhere(block: str) -> None:
    with pytest.raises(UnsureError):
        anchor(MODULE, "import os\n# ...\n" + block if block.startswith("# ...") else block)


def test_three_dots_of_python_are_code() -> None:
    text = "def f():\n    ...\n\n\ndef g():\n    ...\n"
    assert result(text, "def g():\n    ...\n    return\n") == text + "    return\n"


# -- whole texts and parts of them -------------------------------------------------------------------------------------


@given(TEXT)
def test_an_empty_text_becomes_the_block(block: str) -> None:
    if block.strip() and not block.startswith(("-", "+", "@")):
        assert result("", block).rstrip("\n") == block.rstrip("\n")


def test_a_whole_text_written_anew() -> None:
    new = MODULE.replace("return 3", "return 4").replace("import sys", "import sys\nimport re")
    anchored = anchor(MODULE, new)
    assert applied(MODULE, anchored) == new
    assert len(anchored.edits) == 2, "what stays is not touched"


def test_a_block_that_is_there_already_changes_nothing() -> None:
    assert anchor(MODULE, MODULE).edits == ()
    assert anchor(MODULE, 'def run(text):\n    """Runs."""\n    print(text)\n    return 3\n').edits != ()


CONFIG = "[a]\nx = 1\ny = 2\nz = 3\n\n[b]\nx = 1\ny = 5\nz = 3\n"


@pytest.mark.parametrize(
    ("block", "old", "new"),
    [
        ("[b]\nx = 1\ny = 6\nz = 3\n", "y = 5", "y = 6"),
        ("y = 5\nw = 4\nz = 3\n", "y = 5\n", "y = 5\nw = 4\n"),
    ],
)
def test_lines_between_known_ones(block: str, old: str, new: str) -> None:
    assert result(CONFIG, block) == CONFIG.replace(old, new)


def test_edges_that_were_changed_are_found_by_what_is_between() -> None:
    text = "start here\nalpha = 1\nbeta = 2\ngamma = 3\ndelta\nepsilon\nzeta\nstop there\nmore\nand more\n"
    anchored = anchor(text, "start here now\nalpha = 1\nbeta = 20\ngamma = 3\ndelta\nepsilon\nzeta\nstop there now\n")
    expected = "start here now\nalpha = 1\nbeta = 20\ngamma = 3\ndelta\nepsilon\nzeta\nstop there now\nmore\nand more\n"
    assert applied(text, anchored) == expected
    assert anchored.how == "fuzzy"


def test_several_places_are_no_place() -> None:
    with pytest.raises(UnsureError, match="several places"):
        anchor("if a:\n    x()\nelse:\n    y()\n" * 2, "if a:\n    z()\nelse:\n    y()\n")


@settings(max_examples=300)
@given(TEXT, TEXT, st.sampled_from([None, "diff", "py"]))
def test_any_block_is_applied_or_refused(text: str, block: str, language: str | None) -> None:
    with contextlib.suppress(UnsureError):
        result(text, block, language)


@settings(max_examples=200)
@given(st.lists(st.sampled_from(["def f():", "    a", "    b", "", "# ...", "c", "class C:", "    def g(self):"])))
def test_what_is_not_mentioned_stays(block: list[str]) -> None:
    """Lines that look like nothing in the block are in the result, in their order."""
    own = ["one = 1", "", "", "def f():", "    first()", "    second()", "", "", "def other():", "    third()"]
    try:
        lines = result("\n".join(own) + "\n", "\n".join(block)).splitlines()
    except UnsureError:
        return
    assert [line for line in lines if line in ("one = 1", "def other():", "    third()")] == [
        "one = 1",
        "def other():",
        "    third()",
    ]
