#!/usr/bin/env python3
"""The parts and their ids are those of the engine; needs the packages `tokenizers` and `jinja2` only."""

import json
import pathlib
import unittest

import jinja2.sandbox
from tokenizers import Tokenizer

from block_template import BlockTemplate, PartEncoder

TESTS = pathlib.Path(__file__).resolve().parent / "tests"


def chat_template(source):
    """Renders as transformers does."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)

    def refuse(message):
        raise jinja2.exceptions.TemplateError(message)

    environment.globals["raise_exception"] = refuse
    compiled = environment.from_string(source)
    return lambda messages, opens: compiled.render(messages=messages, add_generation_prompt=opens, bos_token="<s>", eos_token="</s>")


class Template(unittest.TestCase):
    def setUp(self):
        # Written by the engine: see `crates/lazy-attn-text/tests/block_finetune.rs`.
        self.engine = json.loads((TESTS / "template.json").read_text(encoding="utf-8"))

    def test_every_part_and_every_id_is_the_engines(self):
        encoder = PartEncoder(Tokenizer.from_file(str(TESTS / "tiny" / "tokenizer.json")), None)
        for written in self.engine["templates"]:
            source = written["chat_template"]
            template = BlockTemplate.chatml() if source is None else BlockTemplate.from_chat(chat_template(source))
            self.assertGreater(len(written["prompts"]), 2)
            for prompt, expected in zip(self.engine["inputs"], written["prompts"], strict=True):
                documents = [(document["title"], document["text"]) for document in prompt["documents"]]
                parts = template.prompt(documents, prompt["question"], prompt["system"])
                with self.subTest(template=written["name"], question=prompt["question"]):
                    self.assertEqual(parts, expected["parts"])
                    self.assertEqual(encoder.encode(parts), expected["ids"])

    def test_an_answer_ends_with_the_token_that_stops_the_engine(self):
        encoder = PartEncoder(Tokenizer.from_file(str(TESTS / "tiny" / "tokenizer.json")), None)
        end = encoder.backend.token_to_id("<|im_end|>")
        ids = encoder.answer(BlockTemplate.chatml(), "green", {end})
        self.assertEqual(ids, [*encoder.backend.encode("green", add_special_tokens=False).ids, end])
        with self.assertRaises(ValueError):
            encoder.answer(BlockTemplate.chatml(), "green", {end + 1})

    def test_an_answer_keeps_the_space_that_its_template_puts_before_it(self):
        source = (
            "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
            "{% elif m.role == 'system' %}{{ raise_exception('no system') }}{% else %} {{ m.content }}</s>{% endif %}{% endfor %}"
        )
        template = BlockTemplate.from_chat(chat_template(source))
        self.assertEqual((template.before_answer, template.after_answer), (" ", "</s>"))
        self.assertEqual(template.prompt([], "Who?", "Be brief."), ["[INST] Be brief.\n\n", "Question: Who? [/INST]"])

    def test_bos_is_put_in_front_once(self):
        backend = Tokenizer.from_file(str(TESTS / "tiny" / "tokenizer.json"))
        bos = backend.token_to_id("<|endoftext|>")
        encoder = PartEncoder(backend, bos)
        plain = PartEncoder(backend, None).encode(["red", "blue"])
        self.assertEqual(encoder.encode(["red", "blue"]), [[bos, *plain[0]], plain[1]])
        self.assertEqual(encoder.encode(["<|endoftext|>red", "blue"]), [[bos, *plain[0]], plain[1]])


if __name__ == "__main__":
    unittest.main()
