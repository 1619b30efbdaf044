"""The answers transformers itself gives to the engine's prompts: its own modeling, cache and `generate`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache


class TransformersAnswers:
    """A model of a folder in float32, greedy."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()

    @torch.inference_mode()
    def answers(self, prompts: Sequence[list[int]], max_tokens: int) -> Iterator[str]:
        """An answer for each prompt; what all prompts begin with is computed once."""
        shared = _shared(prompts)
        cache = DynamicCache(config=self._model.config)
        self._model(torch.tensor([prompts[0][:shared]]), past_key_values=cache, logits_to_keep=1)
        for prompt in prompts:
            yield self._answer(prompt, cache, max_tokens)
            cache.crop(shared - cache.get_seq_length())

    def _answer(self, prompt: list[int], cache: DynamicCache, max_tokens: int) -> str:
        ids = torch.tensor([prompt])
        output = self._model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            past_key_values=cache,
            do_sample=False,
            repetition_penalty=1.0,
            max_new_tokens=max_tokens,
        )
        text: str = self._tokenizer.decode(output[0, len(prompt) :], skip_special_tokens=True)
        return text


def _shared(prompts: Sequence[list[int]]) -> int:
    """How many tokens all prompts begin with; each keeps at least one of its own."""
    longest = min(map(len, prompts)) - 1
    columns = zip(*(prompt[:longest] for prompt in prompts), strict=True)
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
