"""The conversation in a pseudo-terminal, key by key, against the fake server."""

from __future__ import annotations

from tests.terminal.terminals import run_piped

CTRL_C, CTRL_D, ENTER, TAB, ALT_ENTER = "\x03", "\x04", "\r", "\t", "\x1b\r"
FIGURES = r"9 tokens reused · 12 prefilled · \d+ generated · first token 0\.25 s · 8\.0 tok/s · near"


def test_welcome_says_what_is_loaded_and_how_to_go_on(open_chat):
    chat = open_chat()
    chat.expect(r"ctx-lsp \d+\.\d+\.\d+ · \S+/workspace")
    chat.expect(r"fake-model on cpu · 2 files · 9 of 4,096 tokens")
    chat.expect(r"Ask anything\. /help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves\.")
    chat.expect("❯")


def test_an_answer_streams_and_is_followed_by_its_figures(open_chat):
    chat = open_chat()
    chat.expect("❯")
    chat.send("how often?" + ENTER)
    chat.expect(r"It is set in retry\.py:")
    chat.expect(r"attempts = 5  # tries")
    chat.expect(r"You asked: how often\?")
    chat.expect(FIGURES)
    chat.expect("❯")


def test_thoughts_are_shown_apart_from_the_answer_and_dim(open_chat):
    chat = open_chat()
    chat.expect("❯")
    chat.send("think" + ENTER)
    chat.expect(r"│ They ask me to think\.\r?\n│ So I do\.\r?\n\r?\nIt is set in retry\.py:")
    chat.expect(r"generated \(8 thinking\)")
    assert "\x1b[2mThey\x1b[0m" in chat.raw
    assert "\x1b[2mIt" not in chat.raw


def test_thoughts_without_styles_still_stand_apart(open_chat):
    chat = open_chat(NO_COLOR="1")
    chat.expect("❯")
    chat.send("think" + ENTER)
    chat.expect(r"│ They ask me to think\.\r?\n│ So I do\.\r?\n\r?\nIt is set in")
    assert "\x1b[2mThey" not in chat.raw


def test_what_the_server_wants_shown_is_shown(open_chat):
    chat = open_chat(FAKE_SERVER_NOTICE="Its positions depend on the length.")
    chat.expect(r"Its positions depend on the length\..*❯")


def test_ctrl_c_cancels_the_answer_and_not_the_program(open_chat, fake):
    chat = open_chat()
    chat.expect("❯")
    chat.send("slow" + ENTER)
    chat.expect("word3 ")
    chat.send(CTRL_C)
    chat.expect("stopped.*❯")
    assert fake.cancelled("ctx/chat") == 1
    chat.send("still there?" + ENTER)
    chat.expect(r"You asked: still there\?")
    chat.expect("❯")
    chat.send(CTRL_D)
    assert chat.wait() == 0


def test_sigint_cancels_the_answer_as_ctrl_c_does(open_chat):
    chat = open_chat()
    chat.expect("❯")
    chat.send("slow" + ENTER)
    chat.expect("word3 ")
    chat.interrupt()
    chat.expect("stopped.*❯")
    chat.send(CTRL_D)
    assert chat.wait() == 0


def test_ctrl_c_at_the_prompt_clears_the_line(open_chat, fake):
    chat = open_chat()
    chat.expect("❯")
    chat.send("never sent")
    chat.expect("never sent")
    chat.send(CTRL_C)
    chat.send("sent instead" + ENTER)
    chat.expect("You asked: sent instead")
    assert [chat["text"] for chat in fake.received("ctx/chat")] == ["sent instead"]


def test_ctrl_d_leaves_and_ends_the_server(open_chat, fake):
    chat = open_chat()
    chat.expect("❯")
    chat.send(CTRL_D)
    assert chat.wait() == 0
    assert fake.ended_politely


def test_quit_leaves(open_chat):
    chat = open_chat()
    chat.expect("❯")
    chat.send("/quit" + ENTER)
    assert chat.wait() == 0


def test_slash_commands_are_completed_by_the_server(open_chat, fake):
    chat = open_chat()
    chat.expect("❯")
    chat.send("/con")
    chat.expect("/context +about /context")
    chat.send(TAB + ENTER)
    chat.expect(r"file +tokens.*retry\.py +6.*store\.py +3")
    assert fake.received("ctx/slash") == [{"text": "/context", "conversationId": "default"}]


def test_a_slash_command_can_be_interrupted(open_chat, fake):
    chat = open_chat()
    chat.expect("❯")
    chat.send("/wait" + ENTER)
    chat.expect("/wait.*/wait")  # the line typed, and the progress view that waits
    chat.send(CTRL_C)
    chat.expect("stopped.*❯")
    assert fake.cancelled("ctx/slash") == 1


def test_errors_are_one_line_and_the_conversation_goes_on(open_chat):
    chat = open_chat()
    chat.expect("❯")
    chat.send("fail" + ENTER)
    chat.expect("error: the context is full: 5000 of 4096 tokens.*❯")
    chat.send("/nonsense" + ENTER)
    chat.expect("error: unknown command /nonsense; /help lists them.*❯")
    assert "Traceback" not in chat.text


def test_a_server_that_dies_ends_the_program_with_its_last_words(open_chat):
    chat = open_chat()
    chat.expect("❯")
    chat.send("die" + ENTER)
    chat.expect("error: the language server has ended: RuntimeError: out of luck")
    assert chat.wait() == 1


def test_a_question_may_have_several_lines(open_chat, fake):
    chat = open_chat()
    chat.expect("❯")
    chat.send("first" + ALT_ENTER + "second" + ENTER)
    chat.expect("You asked")
    assert fake.received("ctx/chat")[0]["text"] == "first\nsecond"


def test_keys_typed_during_an_answer_wait_for_the_prompt(open_chat, fake):
    chat = open_chat()
    chat.expect("❯")
    chat.send("slow" + ENTER)
    chat.expect("word3 ")
    chat.send("early")
    chat.send(CTRL_C)
    chat.expect("stopped.*❯")
    chat.expect("early")
    chat.send(ENTER)
    chat.expect("You asked: early")


def test_files_that_were_named_but_not_loaded_are_shown(open_chat):
    chat = open_chat("retry.py", "image.bin")
    chat.expect(r"1 file · 6 of 4,096 tokens")
    chat.expect(r"not loaded: image\.bin \(not text\)")


def test_colors_are_left_out_when_asked(open_chat):
    chat = open_chat(NO_COLOR="1")
    chat.expect("❯")
    chat.send("plain?" + ENTER)
    chat.expect(r"It is set in `retry\.py`:.*```python.*You asked: \*\*plain\?\*\*")


def test_a_conversation_needs_a_terminal(home, workspace):
    done = run_piped(["chat"], home, cwd=workspace)
    assert done.returncode == 1
    assert done.stderr == "ctx-lsp: a conversation needs a terminal; --ask asks one question\n"
