"""Any decoder-only model that transformers has, run by transformers' own code with the engine's attention.

What its layers do is probed (`adapter_probe`), its rotation is taken over where it can be (`adapter_rotary`), and all
of it is tried against the model itself (`proof`) before anything relies on it. Knows no family by name.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from engine.errors import UnsupportedModelError
from engine.models import adapter_probe
from engine.models.adapter_attention import NAME, AttentionPass, EnginePass, in_force
from engine.models.adapter_probe import Probed, ProbingPass
from engine.models.adapter_rotary import NotUnderstood, Replace, RotaryModules, identity
from engine.models.adapter_state import RecurrentState
from engine.models.adapter_tables import read_table, steady_length
from engine.models.language_model import Attend, AttendOrKeep, LayerSpec
from engine.models.proof import agrees_with, check_moving
from engine.models.rotary import RotaryTable

logger = logging.getLogger(__name__)

_LEAST_CONTEXT = 256
"""Tokens for which there are tables in any case: the proof needs some."""


class TransformersModel:
    """A transformers model as a `LanguageModel`.

    Attributes:
        layers: one per call of attention in a pass, which is the order the model calls it in.
    """

    def __init__(self, model: PreTrainedModel, *, max_context: int | None = None, quantized: bool = False) -> None:
        """Take the model over: from now on its attention is the engine's.

        Args:
            model: loaded, in evaluation mode, with its eager attention.
            max_context: longest text it will see, tokens; None for the model's own limit.
            quantized: its weights are, and perhaps what they are multiplied with.

        Raises:
            UnsupportedModelError: its attention can't be run by the engine.
        """
        self._model = model
        self._base = _layers_of(model)
        self._config = model.config.get_text_config(decoder=True)
        self._quantized = quantized
        self._output: type[Any] = dict
        self._dtype: torch.dtype = model.dtype
        limit = _position_limit(model, self._config)
        self.max_position = min(limit, max(max_context or limit, _LEAST_CONTEXT))
        self.layers: Sequence[LayerSpec] = ()
        self.rotary: Sequence[RotaryTable] = ()
        self.exact_only: str | None = None
        self.stateful = False
        self.one_by_one = False
        self._modules = RotaryModules(self._base)
        self._take_over()

    @property
    def vocab_size(self) -> int:
        return int(self._config.vocab_size)

    @property
    def device(self) -> torch.device:
        device: torch.device = self._model.get_input_embeddings().weight.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        return self._dtype

    # -- running ---------------------------------------------------------------------------------------------------

    def forward(self, token_ids: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        return self._run(EnginePass(attend), token_ids, positions, use_cache=False)

    def fill(self, token_ids: Tensor, positions: Tensor, attend: AttendOrKeep) -> None:
        self.forward(token_ids, positions, attend)

    def advance(
        self, token_ids: Tensor, positions: Tensor, attend: Attend, state: object | None
    ) -> tuple[Tensor, object | None]:
        if not self.stateful:
            return self.forward(token_ids, positions, attend), None
        assert state is None or isinstance(state, RecurrentState)
        new = RecurrentState(self._config) if state is None else state.copy()
        hidden = self._run(EnginePass(attend), token_ids, positions, past_key_values=new, use_cache=True)
        new.seen += len(token_ids)
        return hidden, new

    def logits(self, hidden: Tensor) -> Tensor:
        """As `LanguageModel.logits`, with the model's own output layer and all that it does around it."""
        output = self._output(last_hidden_state=hidden[None])
        given = torch.zeros(1, len(hidden), dtype=torch.int64, device=hidden.device)
        with _forward_replaced(self._base, output):
            logits: Tensor = self._model(input_ids=given, use_cache=False).logits
        return logits[0].float()

    def own_logits(self, token_ids: Tensor) -> Tensor:
        """What transformers itself computes with its plain attention: float32 [T, vocab] for `token_ids` int64 [T]."""
        kept, self._modules.replace = self._modules.replace, None
        self._model.set_attn_implementation("eager")
        try:
            logits: Tensor = self._model(input_ids=token_ids[None], use_cache=False).logits
        finally:
            self._modules.replace = kept
            self._model.set_attn_implementation(NAME)
        return logits[0].float()

    def _run(self, attention: AttentionPass, token_ids: Tensor, positions: Tensor, **options: Any) -> Tensor:
        with in_force(attention):
            output = self._base(input_ids=token_ids[None], position_ids=positions[None], **options)
        self._output = type(output)
        hidden: Tensor = output.last_hidden_state[0]
        return hidden

    # -- taking over -----------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def _take_over(self) -> None:
        """Try the engine's rotation first, then the model's own; what agrees with the model itself is taken."""
        try:
            self._model.set_attn_implementation(NAME)
            probed = self._probe()
            try:
                self._rotate_here(probed)
                if not self._agrees():
                    raise NotUnderstood("its rotary embedding does more than turn queries and keys")
                self.exact_only = check_moving(self, coarse=self._quantized)
            except NotUnderstood as reason:
                self._rotate_there(probed, str(reason))
                self._prove()
        except UnsupportedModelError as error:
            raise _refusal(self._model, error.message) from error
        except Exception as error:  # whatever its code makes of an attention and a mask it has not seen before
            logger.debug("taking over %s failed", type(self._model).__name__, exc_info=True)
            raise _refusal(self._model, f"{type(error).__name__}: {error}") from error

    def _agrees(self) -> bool:
        return agrees_with(self, self.own_logits, coarse=self._quantized)

    def _prove(self) -> None:
        """UnsupportedModelError if the model, rotating for itself, does not agree with itself here."""
        if self._agrees():
            return
        if not self.stateful:
            raise UnsupportedModelError("the engine's attention does not give what its own attention gives")
        self.one_by_one = True  # some recurrent layers start anew whenever they see several tokens
        if not self._agrees():
            raise UnsupportedModelError("its layers can't go on from a state that was kept")

    def _probe(self) -> list[Probed]:
        """The model's layers, each with its problem if KV of it can't be moved; also finds out whether it is stateful.

        Raises:
            UnsupportedModelError: its attention can't be seen.
        """
        problem: str | None = None
        try:
            layers, hidden = self._probing_run(0, adapter_probe.angles)
        except NotUnderstood as reason:
            # with the model's own angles its layers can be told all the same, if not how they rotate
            layers, hidden = self._probing_run(0, None)
            problem = str(reason)
        if not layers:
            raise UnsupportedModelError("its layers do not call transformers' attention interface")
        if adapter_probe.depends_on_earlier_tokens(hidden):
            self.stateful = True
            problem = "it has layers that carry a state from token to token"
        elif adapter_probe.differ(hidden, self._probing_run(min(1000, self.max_position // 2), None)[1]):
            problem = "its positions are learned, so what it computed at one does not hold at another"
        return [replace(layer, problem=problem or layer.problem) for layer in layers]

    def _probing_run(self, position: int, angles: Replace | None) -> tuple[list[Probed], Tensor]:
        """What the layers show, and the hidden states, when all tokens of the probing text stand at `position`."""
        probing = ProbingPass(self.max_position)
        ids = adapter_probe.tokens(self.vocab_size, self.device)
        ones = torch.ones(1, len(ids), dtype=torch.int64, device=self.device)
        self._modules.replace = angles
        try:
            hidden = self._run(probing, ids, torch.full_like(ids, position), attention_mask=ones, use_cache=False)
        finally:
            self._modules.replace = None
        # that of KV: quantized weights have others, and some models keep some weights in float32
        self._dtype = probing.dtype or self._dtype
        return probing.layers, hidden

    def _rotate_here(self, probed: Sequence[Probed]) -> None:
        """Leave the model's queries and keys unrotated; the layers' specs say how the engine's attention turns them."""
        for layer in probed:
            if layer.problem is not None:
                raise NotUnderstood(layer.problem)
        tables: dict[tuple[object, ...], int] = {}
        rotary: list[RotaryTable] = []
        layers: list[LayerSpec] = []
        for layer in probed:
            if layer.source is None or layer.pairing is None:
                layers.append(layer.spec)
                continue
            key = (layer.source, layer.pairing)
            if key not in tables:
                tables[key] = len(rotary)
                source = self._modules.sources[layer.source]
                rotary.append(read_table(source, layer.pairing, 2 * self.max_position, self.device))
            layers.append(replace(layer.spec, rotary=tables[key]))
        self.layers, self.rotary = layers, rotary
        self._modules.replace = identity

    def _rotate_there(self, probed: Sequence[Probed], reason: str) -> None:
        """Let the model rotate for itself: its KV then serves only where it was computed."""
        self.layers, self.rotary = [layer.spec for layer in probed], []
        self._modules.replace = None
        self.exact_only = reason
        limit = self.max_position
        for source in self._modules.sources:
            limit = min(limit, steady_length(source, limit, self.device))
        if limit < self.max_position:
            self.exact_only += f"; and its context is limited to {limit} tokens, where they begin to change"
            self.max_position = limit


def _layers_of(model: PreTrainedModel) -> nn.Module:
    """The part of a model that goes from token ids to hidden states."""
    embeddings = model.get_input_embeddings()
    for part in (model.get_decoder(), model.base_model, getattr(model, "model", None)):
        if isinstance(part, nn.Module) and part is not model and embeddings in part.modules():
            return part
    raise _refusal(model, "transformers does not tell its layers from its output")


@contextmanager
def _forward_replaced(module: nn.Module, output: Any) -> Iterator[None]:
    """`module` returns `output`, whatever it is called with, while the block runs."""
    own = module.__dict__.get("forward")  # quantizers and device maps put one on the instance
    module.forward = lambda *_, **__: output
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own


def _position_limit(model: PreTrainedModel, config: Any) -> int:
    limit = getattr(config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit < 2:
        raise _refusal(model, "its config has no max_position_embeddings")
    return limit


def _refusal(model: PreTrainedModel, reason: str) -> UnsupportedModelError:
    name = type(model).__name__
    return UnsupportedModelError(f"{name} can't be run by this engine: {reason}", architecture=name)
