"""A decoder, its packed weights and a KV pool as the C library reads them, and the call that computes a step.

Knows nothing of segments, questions or who chooses the tokens.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.attention.watched import watched_layers
from engine.kv.pool import KVPool
from engine.models.decoder import Decoder, LayerWeights
from engine.models.language_model import LayerSpec
from engine.models.packed_weights import PackedMatrix
from engine.native import abi
from engine.native.arena import Arena

IntArray = NDArray[np.int32]

_KINDS = {torch.float32: abi.DENSE_F32, torch.bfloat16: abi.DENSE_BF16}


@dataclass(frozen=True)
class StepArrays:
    """What a step computes; int32 arrays, contiguous. T ≤ `abi.MOST_TOKENS` tokens.

    Attributes:
        ids, positions, slots: [T]; where each token stands, and where its KV goes.
        rows: [R, 4], for consecutive tokens with one context: first token, tokens, first run, runs.
        runs: [N, 4], in each row from position 0 on: slot, length, start, Δ (see `Run`).
        wanted: tokens behind which logits are wanted.
        pieces: [N], which of its row's pieces each run is part of, −1 for none.
        most_pieces: of a row, all being numbered from 0; 0 where no shares of attention are wanted.
    """

    ids: IntArray
    positions: IntArray
    slots: IntArray
    rows: IntArray
    runs: IntArray
    wanted: IntArray
    pieces: IntArray
    most_pieces: int = 0


@dataclass(frozen=True)
class Stepped:
    """What a step leaves besides KV.

    Attributes:
        logits: float32 [wanted, vocab].
        read: float32 [T, pieces], the share of attention that each token paid to each of its row's pieces, mean over
            heads and watched layers; None where no layer is watched, or nobody asked.
    """

    logits: Tensor
    read: NDArray[np.float32] | None


def unfit(decoder: Decoder, pool: KVPool) -> str | None:
    """Why steps of this decoder over this pool can't be computed here, as the rest of a sentence; None if they can."""
    if decoder.device.type != "cpu":
        return "the model is not on the CPU"
    if pool.scaled:
        return "its KV is kept in 8 bits"
    if any(spec.softcap is not None or spec.sinks is not None for spec in decoder.layers):
        return "its attention has soft caps or sinks"
    if decoder.config.head_dim % 16 or decoder.config.hidden_size % 16:
        return "its heads or hidden states are no multiple of 16 numbers wide"
    return None


class Stepper:
    """Computes steps of one decoder over one pool. One at a time, from any thread.

    Args:
        packed: the decoder's matrices as their file has them, by transformers' names; those that are missing are read
            from the decoder's own weights.
        threads: the most that a step may use.

    Attributes:
        threads: how many the next step uses.
        kept: share of the last step's time, 0 … 1, that other processes kept one of its threads from its core.

    Raises:
        MemoryError: no room for a step's intermediate results.
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        decoder: Decoder,
        pool: KVPool,
        packed: Mapping[str, PackedMatrix],
        threads: int,
    ) -> None:
        self._library = library
        self._packed = packed
        self._arena = Arena(len(packed), sum(matrix.data.nbytes for matrix in packed.values()))
        self._kept: list[Tensor] = []  # what C points to
        self._vocab, self._heads = decoder.vocab_size, decoder.config.num_heads
        self._watched = watched_layers(len(decoder.layers))
        self._layers = self._make_layers(decoder, pool)
        self._model = self._make_model(decoder, pool)
        self._handle: int | None = library.ctx_stepper_new(ctypes.byref(self._model), threads)
        if not self._handle:
            raise MemoryError("no room for the CPU's threads")
        self.threads = threads
        self.kept = 0.0

    def close(self) -> None:
        """End its threads. Idempotent; no step may be under way."""
        handle, self._handle = self._handle, None
        if handle:
            self._library.ctx_stepper_free(handle)

    def step(self, arrays: StepArrays) -> Stepped:
        """Compute the tokens' KV, and what is wanted of them."""
        assert self._handle is not None, "it is closed"
        logits = torch.empty(len(arrays.wanted), self._vocab, dtype=torch.float32)
        tokens, notes = len(arrays.ids), len(arrays.runs) + abi.MOST_STRETCHES
        noted = arrays.most_pieces if self._watched else 0
        room = np.empty((tokens, self._heads, notes if noted else 0, 2), dtype=np.float32)
        read = np.zeros((tokens, noted), dtype=np.float32)
        step = abi.Step(
            tokens=tokens,
            rows=len(arrays.rows),
            wanted=len(arrays.wanted),
            pieces=noted,
            ids=arrays.ids.ctypes.data,
            positions=arrays.positions.ctypes.data,
            slots=arrays.slots.ctypes.data,
            row=arrays.rows.ctypes.data,
            run=arrays.runs.ctypes.data,
            wanted_tokens=arrays.wanted.ctypes.data,
            logits=logits.data_ptr(),
            piece=arrays.pieces.ctypes.data,
            notes=notes,
            note=room.ctypes.data,
            read=read.ctypes.data,
        )
        self.kept = self._library.ctx_step(self._handle, ctypes.byref(step), self.threads)
        read /= max(1, self._heads * len(self._watched))
        return Stepped(logits, read if noted else None)

    # -- what C reads ----------------------------------------------------------------------------------------------

    def _make_model(self, decoder: Decoder, pool: KVPool) -> abi.Model:
        config, weights, rotary = decoder.config, decoder.weights, decoder.rotary[0]
        return abi.Model(
            num_layers=len(self._layers),
            hidden=config.hidden_size,
            inner=config.intermediate_size,
            heads=config.num_heads,
            kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            vocab=config.vocab_size,
            kv_kind=_KINDS[pool.keys[0].dtype],
            embedding_kind=_KINDS[weights.embedding.dtype],
            slots=pool.slots,
            eps=config.rms_norm_eps,
            embedding=self._pointer(weights.embedding),
            norm=self._floats(weights.norm),
            cos=self._floats(rotary.cos),
            sin=self._floats(rotary.sin),
            head=self._matrix("lm_head.weight", weights.head, None),
            layers=self._layers,
        )

    def _make_layers(self, decoder: Decoder, pool: KVPool) -> ctypes.Array[abi.Layer]:
        layers = [
            self._layer(index, decoder, weights, spec, pool)
            for index, (weights, spec) in enumerate(zip(decoder.weights.layers, decoder.layers, strict=True))
        ]
        return (abi.Layer * len(layers))(*layers)

    def _layer(self, index: int, decoder: Decoder, weights: LayerWeights, spec: LayerSpec, pool: KVPool) -> abi.Layer:
        config, attention, mlp = decoder.config, f"model.layers.{index}.self_attn", f"model.layers.{index}.mlp"
        qkv = [config.num_heads * config.head_dim] + [config.num_kv_heads * config.head_dim] * 2
        q, k, v = self._parts(weights.qkv, weights.qkv_bias, qkv, [f"{attention}.{name}_proj.weight" for name in "qkv"])
        halves = [config.intermediate_size] * 2
        names = [f"{mlp}.{name}_proj.weight" for name in ("gate", "up")]
        gate, up = self._parts(weights.gate_up, weights.gate_up_bias, halves, names)
        return abi.Layer(
            attention_norm=self._floats(weights.attention_norm),
            mlp_norm=self._floats(weights.mlp_norm),
            q_norm=self._floats(weights.q_norm),
            k_norm=self._floats(weights.k_norm),
            q=q,
            k=k,
            v=v,
            output=self._matrix(f"{attention}.o_proj.weight", weights.output, weights.output_bias),
            gate=gate,
            up=up,
            down=self._matrix(f"{mlp}.down_proj.weight", weights.down, weights.down_bias),
            keys=self._pointer(pool.keys[index]),
            values=self._pointer(pool.values[index]),
            scale=spec.scale,
            window=spec.window or 0,
            rotates=spec.rotary is not None,
            watched=index in self._watched,
        )

    def _parts(self, fused: Tensor, bias: Tensor | None, rows: list[int], names: list[str]) -> list[abi.Matrix]:
        """The matrices that stand one below the other in `fused`."""
        biases = bias.split_with_sizes(rows) if bias is not None else [None] * len(rows)
        return [
            self._matrix(name, part, its)
            for name, part, its in zip(names, fused.split_with_sizes(rows), biases, strict=True)
        ]

    def _matrix(self, name: str, dense: Tensor, bias: Tensor | None) -> abi.Matrix:
        packed, floats = self._packed.get(name), self._floats(bias)
        if packed is None:
            return abi.Matrix(_KINDS[dense.dtype], *dense.shape, self._pointer(dense), floats)
        data = self._pointer(self._arena.copy(packed.data))
        packed.forget()  # it was needed for this copy only
        return abi.Matrix(abi.PACKED[packed.kind.name], *dense.shape, data, floats)

    def _floats(self, tensor: Tensor | None) -> int | None:
        return None if tensor is None else self._pointer(tensor.float())

    def _pointer(self, tensor: Tensor) -> int:
        assert tensor.is_contiguous()
        self._kept.append(tensor)
        return tensor.data_ptr()
