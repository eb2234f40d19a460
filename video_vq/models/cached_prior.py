"""A prior prepared for decoding, with packed weights and a static key-value cache."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from video_vq.models.prior import Prior
from video_vq.models.step_graphs import Step, StepGraphs
from video_vq.models.token_transformer import Condition
from video_vq.nn.attention import NORM_EPS, TransformerBlock
from video_vq.nn.packed import Product, constant_product
from video_vq.nn.rotary import rotate

QUERY_BLOCK = 128  # number of queries whose scores over a prefix are in memory at once
SPAN = 64  # on a GPU, a step reads a multiple of this length, so that few graphs suffice
UNSHARED = 32767  # torch runs element-wise operations on up to this many elements in one thread


class DecoderLayer(NamedTuple):
    """Packed weights of a block, with each norm's gain folded into the subsequent product."""

    query_key_value: Product
    output: Product
    gate_up: Product
    down: Product
    gains: Float[Tensor, "2 heads 1"]  # of queries, of keys


class SubCodeLayer(NamedTuple):
    """Packed weights for predicting all sub-codes of a token except the first."""

    embedding: Float[Tensor, "rows d"]
    gate_up: Product
    down: Product


class CachedPrior:
    """A prior that decodes a fixed number of rows together and equals `Prior` up to rounding.

    Attention consists of two plain batched products, because torch's fused kernel, with several CPU
    threads, rounds a row differently at different batch positions.

    Args:
        prior: source of the weights: matrices are copied, embedding tables are shared. Conditions
            must be embedded by the prior itself.
        num_rows: number of rows per batch, the same in every call.
        dtype: dtype of weight matrices, cache and products; embeddings, residual stream, norms and
            rotations stay in float32, and logits are returned in float32.
        graphs: whether to record steps as CUDA graphs, which needs a GPU.
    """

    def __init__(
        self, prior: Prior, num_rows: int, dtype: torch.dtype = torch.float32, graphs: bool = False
    ):
        config, sizes = prior.config, prior.config.transformer
        self.num_rows = num_rows
        self.dtype = dtype
        self.sub_codes = prior.sub_codes
        self.heads, self.head_dim = sizes.heads, sizes.head_dim
        self.cells = config.grid_thw[1] * config.grid_thw[2]
        self.token_embedding = prior.token_embedding.weight.detach()
        self.positions = prior.positions.detach()
        rotary = prior.rotary
        self.cos = torch.stack([rotary.query_cos, rotary.key_cos], dim=1)[:, :, None]
        self.sin = torch.stack([rotary.query_sin, rotary.key_sin], dim=1)[:, :, None]
        self.layers = [self._layer(block) for block in prior.blocks]
        # With a multiple of 16 columns, products take the regular code path on every processor.
        head = prior.head.weight.detach() * prior.final_norm.gain.detach()
        self.logits = [
            self._product(F.pad(part, (0, 0, 0, -len(part) % 16)))
            for part in head.split(self.sub_codes.sizes)
        ]
        self.sub_code_layer = self._sub_code_layer(prior) if len(self.sub_codes) > 1 else None
        shape = (sizes.depth, num_rows, self.heads, config.num_tokens, self.head_dim)
        # Initially zero, because a step on a GPU multiplies the unfilled part by 0.
        self.keys = torch.zeros(shape, dtype=dtype, device=head.device)
        self.values = torch.zeros(shape, dtype=dtype, device=head.device)
        self.per_frame: Tensor | None = None  # of the condition
        self.num_held = 0
        # On a GPU, a step reads its position from a tensor, so all steps of a span share kernels.
        self.by_place = head.is_cuda
        self.place = torch.zeros(1, dtype=torch.int64, device=head.device)
        self.taken = self.place.new_zeros(num_rows, len(self.sub_codes))
        self.graphs = StepGraphs(self._step_at_place) if graphs else None
        self.last = head.new_empty(num_rows, sizes.width)  # output of the slot that was read last

    def _product(self, weight: Tensor) -> Product:
        return constant_product(weight.to(self.dtype), self.num_rows)

    def _layer(self, block: object) -> DecoderLayer:
        assert isinstance(block, TransformerBlock)
        attention, mlp = block.attention, block.mlp
        query_gain = attention.gain.detach() * self.head_dim**0.5
        return DecoderLayer(
            query_key_value=self._product(
                attention.query_key_value.weight.detach() * block.attention_norm.gain.detach()
            ),
            output=self._product(attention.output.weight.detach()),
            gate_up=self._product(mlp.gate_up.weight.detach() * block.mlp_norm.gain.detach()),
            down=self._product(mlp.down.weight.detach()),
            gains=torch.stack([query_gain, torch.ones_like(query_gain)])[:, :, None],
        )

    def _sub_code_layer(self, prior: Prior) -> SubCodeLayer:
        mlp, gain = prior.sub_code_mlp, prior.sub_code_norm.gain.detach()
        return SubCodeLayer(
            embedding=prior.sub_code_embedding.weight.detach(),
            gate_up=self._product(mlp.gate_up.weight.detach() * gain),
            down=self._product(mlp.down.weight.detach()),
        )

    def begin(
        self, condition: Condition, given: Int[Tensor, "b p s"] | None
    ) -> Float[Tensor, "b v"]:
        """Start a clip in every row: read all given tokens in one pass and predict the next token.

        Args:
            condition: embedded conditions of every row.
            given: sub-codes of the given tokens; None for no given tokens.

        Returns:
            The logits for the next token's first sub-code.
        """
        if condition.per_frame is None:
            self.per_frame = None
        elif self.per_frame is None:
            self.per_frame = condition.per_frame.clone()
        else:
            self.per_frame.copy_(condition.per_frame)  # graphs read this tensor
        self.num_held = 0
        slots = condition.start[:, None]
        if given is not None:
            slots = torch.cat([slots, self._embedded(given)], dim=1)
        return self._read(slots)

    def step(self, sub_codes: Int[Tensor, "b s"]) -> Float[Tensor, "b v"]:
        """Read a token in every row; return the logits for the next token's first sub-code."""
        if self.graphs is None:
            return self._read(self._embedded(sub_codes)[:, None])
        self.place.fill_(self.num_held)
        self.taken.copy_(sub_codes)
        logits, self.last = self.graphs(self._span(self.num_held))
        self.num_held += 1
        return logits

    def _step_at_place(self, span: int) -> Step:
        """Run a decoding step on the sub-codes in `taken` at position `place`.

        Repeating the step gives the same result, so a CUDA graph can record and replay it.

        Args:
            span: length of the part of the cache that the step attends to.
        """
        slots = self._embedded(self.taken)[:, None] + self.positions[self.place]
        if self.per_frame is not None:
            slots = slots + self.per_frame[:, self.place // self.cells]
        logits = self._through_layers(slots, self.place, span)
        return Step(logits, self.last)

    def _span(self, place: int) -> int:
        return min(-(-(place + 1) // SPAN) * SPAN, self.keys.shape[3])

    def further(self, place: int, before: Int[Tensor, " b"]) -> Float[Tensor, "b v"]:
        """Return the logits for the second or a later sub-code of the next token.

        Args:
            place: index of the sub-code; all earlier sub-codes must have been requested in order.
            before: the preceding sub-code, as drawn.
        """
        layer = self.sub_code_layer
        assert layer is not None
        self.last = self.last + layer.embedding[before + self.sub_codes.starts[place - 1]]
        gate, up = layer.gate_up(self._normed(self.last)).chunk(2, dim=-1)
        return self._logits(place, self.last + layer.down(silu_by_rows(gate).mul_(up)))

    def _embedded(self, sub_codes: Int[Tensor, "*n s"]) -> Float[Tensor, "*n d"]:
        return self.token_embedding[self.sub_codes.in_a_row(sub_codes)].sum(-2)

    def _read(self, slots: Float[Tensor, "b m d"]) -> Float[Tensor, "b v"]:
        first, new = self.num_held, slots.shape[1]
        slots = slots + self.positions[first : first + new]
        if self.per_frame is not None:
            frames = torch.arange(first, first + new, device=slots.device) // self.cells
            slots = slots + self.per_frame[:, frames]
        self.num_held += new
        return self._run(slots, first)

    def _run(self, slots: Float[Tensor, "b m d"], first: int) -> Float[Tensor, "b v"]:
        new = slots.shape[1]
        if new == 1 and self.by_place:
            return self._through_layers(slots, self.place.fill_(first), self._span(first))
        return self._through_layers(slots, slice(first, first + new), first + new)

    def _through_layers(
        self, slots: Float[Tensor, "b m d"], places: slice | Int[Tensor, "1"], span: int
    ) -> Float[Tensor, "b v"]:
        """Run the transformer on slots, cache keys and values, and return the last slot's logits.

        Args:
            slots: embeddings of the slots.
            places: positions of the slots, as a slice, or as a tensor for a single slot.
            span: length of the part of the cache to read, which must include the last position.
        """
        batch, new, width = slots.shape
        cos, sin = self.cos[places], self.sin[places]
        x = slots.reshape(batch * new, width)
        for index, layer in enumerate(self.layers):
            mixed = layer.query_key_value(self._normed(x)).view(
                batch, new, 3, self.heads, self.head_dim
            )
            pair = mixed[:, :, :2].float()
            norm = torch.linalg.vector_norm(pair, dim=-1, keepdim=True).clamp_min_(NORM_EPS)
            pair = rotate(pair * (layer.gains / norm), cos, sin).to(self.dtype)
            keys, values = self.keys[index], self.values[index]
            keys[:, :, places] = pair[:, :, 1].transpose(1, 2)
            values[:, :, places] = mixed[:, :, 2].transpose(1, 2)
            query = pair[:, :, 0].transpose(1, 2)
            read = self._attend(query, keys[:, :, :span], values[:, :, :span], places)
            x = x + layer.output(read)
            gate, up = layer.gate_up(self._normed(x)).chunk(2, dim=-1)
            x = x + layer.down(silu_by_rows(gate).mul_(up))
        self.last = x.view(batch, new, width)[:, -1]
        return self._logits(0, self.last)

    def _logits(self, place: int, x: Float[Tensor, "b d"]) -> Float[Tensor, "b v"]:
        return self.logits[place](self._normed(x))[:, : self.sub_codes.sizes[place]].float()

    def _normed(self, x: Float[Tensor, "r d"]) -> Float[Tensor, "r d"]:
        return F.rms_norm(x.float(), (x.shape[-1],), None, NORM_EPS).to(self.dtype)

    def _attend(
        self,
        query: Float[Tensor, "b heads m c"],
        keys: Float[Tensor, "b heads n c"],
        values: Float[Tensor, "b heads n c"],
        places: slice | Int[Tensor, "1"],
    ) -> Float[Tensor, "rows d"]:
        """Attend from each new slot to all cached slots up to and including the slot itself."""
        if isinstance(places, slice):
            read = [
                self._attend_block(block, keys, values, places.start + number * QUERY_BLOCK)
                for number, block in enumerate(query.split(QUERY_BLOCK, dim=2))
            ]
        else:
            read = [self._attend_at(query, keys, values, places)]
        merged = torch.cat(read, dim=2) if len(read) > 1 else read[0]
        return rearrange(merged, "b heads m c -> (b m) (heads c)")

    def _attend_block(self, query: Tensor, keys: Tensor, values: Tensor, first: int) -> Tensor:
        new = query.shape[2]
        held = first + new
        if new == 1:
            # On a CPU, keys · query reads the cache a fifth faster than query · keysᵀ, but only
            # for a query in row layout; a query in column layout takes twice as long.
            column = query.contiguous().transpose(-1, -2)
            scores = torch.matmul(keys[:, :, :held], column).transpose(-1, -2)
        else:
            scores = torch.matmul(query, keys[:, :, :held].transpose(-1, -2))
            later = torch.ones(new, held, dtype=torch.bool, device=query.device).triu(first + 1)
            scores = scores.masked_fill(later, -torch.inf)
        return torch.matmul(torch.softmax(scores, dim=-1), values[:, :, :held])

    def _attend_at(self, query: Tensor, keys: Tensor, values: Tensor, place: Tensor) -> Tensor:
        later = torch.arange(keys.shape[2], device=place.device) > place
        scores = torch.matmul(query, keys.transpose(-1, -2)).masked_fill(later, -torch.inf)
        return torch.matmul(torch.softmax(scores, dim=-1), values)

    def rows_agree(self, num_given: int) -> bool:
        """Return whether equal rows give bitwise equal results at all batch positions.

        The check runs the transformer on equal rows: once on a prefix, and on a single slot at up
        to three cache lengths. The contents of the cache are lost.
        """
        generator = torch.Generator().manual_seed(0)
        num_tokens, width = self.positions.shape
        noise = torch.randn(num_tokens, width, generator=generator).to(self.positions)
        self.keys.copy_(torch.randn(self.keys[:, :1].shape, generator=generator))
        self.values.copy_(torch.randn(self.values[:, :1].shape, generator=generator))
        probes = [(0, num_given + 1)] + [
            (first, 1) for first in sorted({num_given, (num_given + num_tokens) // 2})
        ]
        for first, new in [*probes, (num_tokens - 1, 1)]:
            rows = noise[first : first + new].expand(self.num_rows, -1, -1)
            logits = [self._run(rows, first)]
            zeros = torch.zeros(self.num_rows, dtype=torch.int64, device=rows.device)
            logits += [self.further(place, zeros) for place in range(1, len(self.sub_codes))]
            written = slice(first, first + new)
            keys, values = self.keys[:, :, :, written], self.values[:, :, :, written]
            same = [same_bits(some, 0) for some in logits]
            if not (all(same) and same_bits(keys, 1) and same_bits(values, 1)):
                return False
        return True


def silu_by_rows(x: Float[Tensor, "r hidden"]) -> Float[Tensor, "r hidden"]:
    """Apply SiLU in place so that a row's rounding does not depend on its position.

    On a CPU, torch splits large arrays among threads regardless of rows, and computes the last few
    elements of each part with a different exponential function. Chunks below the threshold for
    splitting keep rows intact.
    """
    rows = max(1, UNSHARED // x.shape[1]) if x.device.type == "cpu" else len(x)
    for piece in x.split(rows):
        F.silu(piece, inplace=True)
    return x


def same_bits(x: Tensor, axis: int) -> bool:
    """Return whether all entries along an axis are bitwise equal."""
    bits = x.contiguous().view(torch.int32 if x.element_size() == 4 else torch.int16)
    return bool((bits == bits.narrow(axis, 0, 1)).all())
