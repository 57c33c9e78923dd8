#!/usr/bin/env python3
"""The mask, the updates and the saved checkpoint, on a tiny random model; needs torch and transformers."""

import json
import pathlib
import random
import sys
import tempfile
import unittest

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "tests"))

import block_rows
import lora
import tiny
import train
from block_rows import FINAL
from block_template import PartEncoder, template_of


class Training(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.path = pathlib.Path(cls.folder.name)
        tiny.save_checkpoint(cls.path / "start")
        tiny.write_rows(cls.path / "rows.jsonl", tiny.rows(400, 1))

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def load(self, name="start"):
        folder = self.path / name
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
        return model.eval(), AutoTokenizer.from_pretrained(folder)

    def batch(self, tokenizer, row):
        end = {tokenizer.eos_token_id}
        item = block_rows.example(row, template_of(tokenizer), PartEncoder.of(tokenizer), end, random.Random(3))
        return item, block_rows.collate([item])

    def hidden(self, model, batch, embeddings=None):
        given = {"input_ids": batch.tokens} if embeddings is None else {"inputs_embeds": embeddings}
        return model.get_decoder()(
            **given, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
        ).last_hidden_state[0]

    def test_the_template_is_the_engines_through_transformers_too(self):
        engine = json.loads((HERE / "tests" / "template.json").read_text(encoding="utf-8"))
        _, tokenizer = self.load()
        for written in engine["templates"]:
            tokenizer.chat_template = written["chat_template"]
            template, encoder = template_of(tokenizer), PartEncoder.of(tokenizer)
            for prompt, expected in zip(engine["inputs"], written["prompts"], strict=True):
                documents = [(document["title"], document["text"]) for document in prompt["documents"]]
                parts = template.prompt(documents, prompt["question"], prompt["system"])
                self.assertEqual(parts, expected["parts"], written["name"])
                self.assertEqual(encoder.encode(parts), expected["ids"], written["name"])

    def test_a_document_is_touched_by_nothing_but_itself(self):
        model, tokenizer = self.load()
        item, batch = self.batch(tokenizer, tiny.rows(1, 5)[0])
        parts = torch.tensor(item.parts)
        with torch.no_grad():
            before = self.hidden(model, batch)
            first = item.parts.index(1)
            batch.tokens[0, first] = (batch.tokens[0, first] + 1) % model.config.vocab_size
            after = self.hidden(model, batch)
        moved = (after - before).abs().amax(-1)
        for part in (0, 2, 3):
            self.assertEqual(moved[parts == part].max(), 0.0, f"part {part} saw document 1")
        self.assertGreater(moved[parts == 1].max(), 1e-3)
        self.assertGreater(moved[parts == FINAL].min(), 0.0, "the question and the answer see every document")

    def test_no_gradient_crosses_between_documents(self):
        model, tokenizer = self.load()
        item, batch = self.batch(tokenizer, tiny.rows(1, 6)[0])
        parts = torch.tensor(item.parts)
        embeddings = model.get_input_embeddings()(batch.tokens).detach().requires_grad_()
        hidden = self.hidden(model, batch, embeddings)
        for of, sees in ((2, {2}), (FINAL, {0, 1, 2, 3, FINAL})):
            (gradient,) = torch.autograd.grad(hidden[parts == of].square().sum(), embeddings, retain_graph=True)
            for part in sorted(set(item.parts)):
                reached = gradient[0][parts == part].abs().max().item() > 0.0
                self.assertEqual(reached, part in sees, f"part {of} and part {part}")

    def test_a_document_in_a_batch_is_the_document_alone_from_position_zero(self):
        model, tokenizer = self.load()
        item, batch = self.batch(tokenizer, tiny.rows(1, 7)[0])
        is_document = torch.tensor(item.parts) == 2
        with torch.no_grad():
            inside = self.hidden(model, batch)[is_document]
            tokens = batch.tokens[:, is_document]
            alone = model.get_decoder()(input_ids=tokens, use_cache=False).last_hidden_state[0]
        # Rotation is relative: only the rounding of angles and sums differs, about 2^-24 a term over 60 terms and layers.
        self.assertLess((inside - alone).abs().max(), 60 * 2**-24 * inside.abs().max() * 8)

    def test_padding_and_full_rows_change_nothing_for_others(self):
        model, tokenizer = self.load()
        item, batch = self.batch(tokenizer, tiny.rows(1, 8)[0])
        longer, _ = self.batch(tokenizer, {**tiny.rows(1, 9)[0], "question": "What colour is the boat, then? " * 3})
        both = block_rows.collate([item, longer.full()])
        with torch.no_grad():
            alone, beside = train.answer_loss(model, batch), train.answer_loss(model, block_rows.collate([item, item]))
            self.assertAlmostEqual(alone.item(), beside.item(), places=5)
            causal = model(input_ids=torch.tensor([longer.tokens])).logits[0]
            hidden = model.get_decoder()(
                input_ids=both.tokens, attention_mask=both.mask, position_ids=both.positions, use_cache=False
            ).last_hidden_state
        logits = model.get_output_embeddings()(hidden[1])
        self.assertLess((logits - causal).abs().max(), 1e-4 * causal.abs().max())
        self.assertLess((hidden[0][: len(item.tokens)] - self.hidden(model, batch)).abs().max(), 1e-4)

    def test_only_the_answer_is_learnt(self):
        _, tokenizer = self.load()
        item, batch = self.batch(tokenizer, tiny.rows(1, 10)[0])
        learnt = batch.labels[0][batch.labels[0] != -100].tolist()
        self.assertEqual(learnt, item.tokens[-item.num_answer :])
        self.assertEqual(tokenizer.decode(learnt), tiny.rows(1, 10)[0]["answers"][0] + "<|im_end|>")

    def tune(self, name, *more):
        options = ["--model", self.path / "start", "--data", self.path / "rows.jsonl", "--output", self.path / name]
        fixed = ["--batch-size", "16", "--accumulate", "1", "--log-every", "100", "--save-dtype", "float32"]
        return train.main([str(option) for option in [*options, *fixed, *more]])

    def falls(self, losses):
        first, last = sum(losses[:10]) / 10, sum(losses[-10:]) / 10
        self.assertLess(last, 0.6 * first, f"the loss went from {first:.3f} to {last:.3f}")

    def test_tuning_all_weights_lowers_the_loss_and_writes_safetensors(self):
        self.falls(self.tune("all", "--steps", "150", "--learning-rate", "3e-3"))
        files = {file.name for file in (self.path / "all").iterdir()}
        self.assertLessEqual({"model.safetensors", "config.json", "tokenizer.json"}, files)

    def test_adapters_lower_the_loss_and_become_weights(self):
        self.falls(self.tune("adapters", "--steps", "150", "--learning-rate", "2e-2", "--lora-rank", "8"))
        start, tuned = self.load()[0].state_dict(), self.load("adapters")[0].state_dict()
        self.assertEqual(start.keys(), tuned.keys(), "no adapter is left beside the weights")
        # On a GPU the frozen weights are held in bfloat16.
        kept = torch.bfloat16 if torch.cuda.is_available() else torch.float32
        changed = {name for name in start if not torch.equal(start[name].to(kept).float(), tuned[name])}
        self.assertEqual(len(changed), 2 * len(lora.TARGETS), f"{sorted(changed)}")

    def test_a_merged_adapter_computes_what_it_did_beside_the_weights(self):
        model, tokenizer = self.load()
        _, batch = self.batch(tokenizer, tiny.rows(1, 11)[0])
        lora.add(model, rank=4, alpha=16.0)
        adapters = [child for _, _, child in lora.layers(model, lambda _, child: isinstance(child, lora.LoraLinear))]
        for adapter in adapters:
            torch.nn.init.normal_(adapter.b, std=0.1)
        with torch.no_grad():
            beside = self.hidden(model, batch)
            lora.merge(model)
            merged = self.hidden(model, batch)
        self.assertLess((beside - merged).abs().max(), 1e-3 * merged.abs().max())


if __name__ == "__main__":
    unittest.main()
