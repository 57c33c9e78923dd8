"""The prompt of a question over documents, cut into parts exactly as the engine cuts it.

Every part is tokenised alone and the ids are concatenated, so that the tokens of a document depend on nothing around it.
`test_template.py` compares this file with the engine's own output (`tests/template.json`).
"""

import re
from dataclasses import dataclass

QUESTION_SYSTEM = "Answer the question with a short phrase from the documents."
LINE_BREAK = re.compile("[\n\r\x0b\x0c\x85\u2028\u2029]")
# Unicode White_Space, which is what the engine trims; `str.strip()` would also take U+001C to U+001F.
WHITE_SPACE = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a" + (
    "\u2028\u2029\u202f\u205f\u3000"
)
# Stand for the texts of the messages while a chat template is cut.
SYSTEM_MARK, USER_MARK, ANSWER_MARK = "lazy-attn-system-mark", "lazy-attn-user-mark", "lazy-attn-answer-mark"


def one_line(text):
    """`text` without line breaks: white space that holds one becomes a single space, and the ends are trimmed."""
    lines = (line.strip(WHITE_SPACE) for line in LINE_BREAK.split(text))
    return " ".join(line for line in lines if line)


@dataclass(frozen=True)
class BlockTemplate:
    """Where system text, documents, question and answer go."""

    before_system: str
    before_documents: str
    after_question: str
    before_answer: str
    after_answer: str

    @staticmethod
    def chatml():
        """The template of ChatML models that have none of their own."""
        return BlockTemplate(
            "<|im_start|>system\n", "<|im_end|>\n<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "", "<|im_end|>"
        )

    @staticmethod
    def from_chat(render):
        """Cuts a chat template: the documents and the question are its user message.

        `render(messages, add_generation_prompt)` returns the template's text. A template without a system role gets the
        system text at the start of its user message.
        """
        system = {"role": "system", "content": SYSTEM_MARK}
        user = {"role": "user", "content": USER_MARK}
        answer = {"role": "assistant", "content": ANSWER_MARK}
        try:
            messages = [system, user]
            before, after_question = render(messages, True).split(USER_MARK, 1)
            before_system, before_documents = before.split(SYSTEM_MARK, 1)
        except Exception:  # it raises for a role it does not know, or left a message out; each library has its own error
            messages = [user]
            rendered = render(messages, True)
            if USER_MARK not in rendered:
                raise ValueError("the chat template does not write a user message verbatim") from None
            before_system, after_question = rendered.split(USER_MARK, 1)
            before_documents = "\n\n"
        _, behind = render([*messages, answer], False).split(USER_MARK, 1)
        opening, after_answer = behind.split(ANSWER_MARK, 1)
        # Some templates put a space in front of an answer that the prompt does not end with.
        before_answer = opening.removeprefix(after_question) if opening.startswith(after_question) else ""
        return BlockTemplate(before_system, before_documents, after_question, before_answer, after_answer)

    def system_part(self, system=QUESTION_SYSTEM):
        """The part before the documents."""
        return f"{self.before_system}{system}{self.before_documents}"

    def document_part(self, title, text):
        """The part of one document."""
        title, text = one_line(title or ""), one_line(text)
        return f"Title: {title}\n{text}\n\n" if title else f"{text}\n\n"

    def question_part(self, question):
        """The part after the documents, with the opening of the answer."""
        return f"Question: {question}{self.after_question}"

    def prompt(self, documents, question, system=QUESTION_SYSTEM):
        """All parts: the system text, one part per `(title, text)`, the question."""
        middle = [self.document_part(title, text) for title, text in documents]
        return [self.system_part(system), *middle, self.question_part(question)]


def template_of(tokenizer):
    """The template of a transformers tokenizer, as the engine chooses it."""
    if tokenizer.chat_template:
        return BlockTemplate.from_chat(
            lambda messages, opens: tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=opens)
        )
    if "<|im_start|>" in tokenizer.get_vocab():
        return BlockTemplate.chatml()
    raise ValueError("the tokenizer has neither a chat template nor the tokens of ChatML")


@dataclass(frozen=True)
class PartEncoder:
    """Tokenises parts, each alone."""

    backend: object  # of the `tokenizers` package
    bos: int | None  # put at position 0 unless the text writes it itself

    @staticmethod
    def of(tokenizer):
        """The encoder of a transformers tokenizer; the model asks for BOS if ordinary text would begin with it."""
        backend = tokenizer.backend_tokenizer
        begins = backend.encode("a", add_special_tokens=True).ids[:1] == [tokenizer.bos_token_id]
        return PartEncoder(backend, tokenizer.bos_token_id if begins else None)

    def encode(self, parts):
        """One list of ids per part."""
        ids = [self.backend.encode(part, add_special_tokens=False).ids for part in parts]
        if self.bos is not None and ids[0][:1] != [self.bos]:
            ids[0] = [self.bos, *ids[0]]
        return ids

    def answer(self, template, answer, end_ids):
        """Ids of an answer up to and including the first that ends it."""
        ids = self.backend.encode(f"{template.before_answer}{answer}{template.after_answer}", add_special_tokens=False).ids
        ends = [at for at, token in enumerate(ids) if token in end_ids]
        if not ends:
            raise ValueError(f"no token of {sorted(end_ids)} ends the answer {answer!r}; set eos_token_id of the model")
        return ids[: ends[0] + 1]
