"""Networks as they are exported; DeepFM rearranged, the same function in half of the operations.

With e_f = (w_f, v_f) a side's rows of the table, one matrix product gives the side's part of
the first hidden layer, and their sum gives its first-order sum and its sum of embeddings S.
The pairwise term of FM (Rendle 2010),

    sum_{i<j} <v_i, v_j> = 1/2 ||S||^2 - 1/2 sum_i ||v_i||^2,

needs nothing else: the last sum is one number for each row of the table and joins the row's
first-order weight. Only a list's mean and a scaled row are known too late for that; their
squares are taken off in the graph, as are those of a field whose rows a list shares.

Dynamic fields of the candidate are looked up apart and come last in the first layer, so that the
rest of the candidate's part can be computed before a request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from app.features.layout import Layout, Slot
from model.networks.deepfm import DeepFM
from model.networks.dynamic import DynamicFields, dynamic_last
from model.networks.mlp import Mlp
from model.networks.network import (
    Network,
    NetworkInputs,
    mean_of_list,
    single_fields,
    sum_of_fields,
    sum_of_rest,
)
from model.networks.rows import RowContext, of_rows


def serving_form(network: Network, layout: Layout) -> nn.Module:
    """Return a trained network's function for export, without batch norm.

    The exporter computes with none of its weights: each is in the graph as it is here.
    """
    if isinstance(network, DeepFM):
        return ServingDeepFM(network, layout)
    folded = network.folded()
    del folded.learned
    if network.elsewhere is not None:
        folded.table, folded.elsewhere = nn.Parameter(_blank_table(network)), None
    apart = splits_dynamic(network, layout)
    if apart:
        folded.dynamic = DynamicFields(layout)
    for name, module in folded.named_children():
        if isinstance(module, Mlp):
            setattr(folded, name, ServingMlp(_dynamic_beside(module, layout) if apart else module))
    return folded


def serving_rows(form: nn.Module, first: int, rows_RC: Tensor, layout: Layout) -> Tensor:
    """Return rows of the table, of which ``first`` is the number of the first, as a form has them.

    For tables that no process has whole.
    """
    if isinstance(form, ServingDeepFM):
        rows_RC = without_squares(rows_RC, first, layout)
        rows_RC[:, 0] /= form.scale
    return rows_RC


def without_squares(rows_RC: Tensor, first: int, layout: Layout) -> Tensor:
    """Return rows of DeepFM's table, their first-order weights less half of the squares.

    But for those whose squares are taken off in the graph.
    """
    table = rows_RC.clone()
    for slot in layout.context + layout.candidate:
        for place in () if _is_late(slot, layout) else slot.ranges:
            rows = table[max(place.start - first, 0) : max(place.stop - first, 0)]
            rows[:, 0] -= 0.5 * rows[:, 1:].square().sum(1)
    return table


def _blank_table(network: Network) -> Tensor:
    """Return a row in the place of a table that no process has whole."""
    return torch.zeros(1, network.table.shape[1])


def splits_dynamic(network: Network, layout: Layout) -> bool:
    """Tell whether the graph computes the part of dynamic fields apart."""
    return layout.has_both and network.takes_dynamic


def _is_late(slot: Slot, layout: Layout) -> bool:
    """Tell whether a slot's squares are taken off in the graph: its rows are multiplied or shared.

    Rows that a list shares are pooled there, and a mean's square is no mean of squares.
    """
    return slot.scaled or slot.name in layout.shared


def _dynamic_beside(mlp: Mlp, layout: Layout) -> Mlp:
    """Move the inputs of dynamic fields to the end of a folded ``Mlp``'s first layer."""
    order = dynamic_last(layout)
    weight_HX = mlp.first.weight.detach()
    row_HX = _in_order(weight_HX[:, mlp.split :], order)
    mlp.first.weight = nn.Parameter(torch.cat([weight_HX[:, : mlp.split], row_HX], 1))
    slots = layout.candidate + layout.candidate_lists
    mlp.beside = row_HX.shape[1] // len(order) * sum(slot.dynamic for slot in slots)
    return mlp


def _in_order(weight_HX: Tensor, order: Sequence[int]) -> Tensor:
    """Return the weights of fields [H, F * C] in another order."""
    hidden, width = weight_HX.shape
    return weight_HX.reshape(hidden, len(order), width // len(order))[:, order].flatten(1)


def _back_in_order(weight_HX: Tensor, layout: Layout) -> Tensor:
    """Return a candidate's weights as training has them from those whose dynamic fields come
    last.
    """
    order = dynamic_last(layout)
    return _in_order(weight_HX, sorted(range(len(order)), key=order.__getitem__))


def trained_mlp(serving: Mapping[str, Tensor], layout: Layout, apart: bool) -> dict[str, Tensor]:
    """Return a network's own weights by name from those of its serving form.

    ``apart`` says that the graph computes the part of dynamic fields apart.
    """
    trained = dict(serving)
    for name in [name for name in serving if name.endswith(".row_weight")]:
        module = name.removesuffix(".row_weight")
        kinds = [f"{module}.{kind}_weight" for kind in ("context", "row", "beside")]
        pieces = [trained.pop(kind) for kind in kinds if kind in trained]
        if apart:
            pieces[1:] = [_back_in_order(torch.cat(pieces[1:], 1), layout)]
        trained[f"{module}.first.weight"] = torch.cat(pieces, 1)
        trained[f"{module}.first.bias"] = trained.pop(f"{module}.hidden_bias")
    return trained


def trained_deepfm(serving: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """Return a DeepFM's own weights by name from those of its serving form, which see."""
    table, scale = serving["table"].clone(), serving["first_order"][0]
    table[:, 0] *= scale
    for slot in layout.context + layout.candidate:
        for place in () if _is_late(slot, layout) else slot.ranges:
            rows = table[place]
            rows[:, 0] += 0.5 * rows[:, 1:].square().sum(1)
    candidate = serving["candidate_weight"]
    if "dynamic_weight" in serving:
        candidate = torch.cat([candidate, serving["dynamic_weight"]], 1)
        candidate = _back_in_order(candidate, layout)
    halves = [
        weight.reshape(len(weight), -1, table.shape[1])[:, :, 1:].flatten(1)
        for weight in (serving["context_weight"], candidate)
    ]
    return {
        "table": table,
        "bias": serving["bias"].reshape(()),
        "mlp.first.weight": torch.cat(halves, 1),
        "mlp.first.bias": serving["hidden_bias"],
    } | {
        f"mlp.{name}": value
        for name, value in serving.items()
        if name.startswith(("deeper.", "output."))
    }


class ServingMlp(nn.Module):
    """A folded ``Mlp``'s function, with a tensor of its first layer for each kind of input."""

    context_weight: Tensor
    row_weight: Tensor
    beside_weight: Tensor
    hidden_bias: Tensor

    def __init__(self, mlp: Mlp) -> None:
        super().__init__()
        weight, own = mlp.first.weight.detach(), mlp.first.in_features - mlp.beside
        self.register_buffer("context_weight", weight[:, : mlp.split].contiguous())
        self.register_buffer("row_weight", weight[:, mlp.split : own].contiguous())
        self.register_buffer("beside_weight", weight[:, own:].contiguous())
        self.register_buffer("hidden_bias", mlp.first.bias.detach())
        self.activation = mlp.activation
        self.deeper, self.output = mlp.deeper, mlp.output

    def forward(
        self,
        context_UX: Tensor | None,
        row_NX: Tensor,
        row_context_N: RowContext,
        beside_NX: Tensor | None = None,
    ) -> Tensor:
        """Return the output [N] for inputs of contexts, of candidates and of both."""
        return self._output(self.hidden(context_UX, row_NX, row_context_N, beside_NX))

    def whole(self, row_NX: Tensor) -> Tensor:
        """Return the output [N] for rows of all inputs, none of which is the context's alone."""
        return self._output(self.hidden(None, row_NX, None))

    def hidden(
        self,
        context_UX: Tensor | None,
        row_NX: Tensor,
        row_context_N: RowContext,
        beside_NX: Tensor | None = None,
    ) -> Tensor:
        """Return the last hidden layer [N, H], of ``Mlp.hidden``."""
        if context_UX is None:
            hidden_NH = functional.linear(row_NX, self.row_weight, self.hidden_bias)
        else:
            context_UH = functional.linear(context_UX, self.context_weight, self.hidden_bias)
            row_NH = functional.linear(row_NX, self.row_weight)
            hidden_NH = of_rows(context_UH, row_context_N) + row_NH
        if beside_NX is not None:
            hidden_NH = hidden_NH + functional.linear(beside_NX, self.beside_weight)
        hidden_NH = self.activation(hidden_NH)
        for linear in self.deeper:
            hidden_NH = self.activation(linear(hidden_NH))
        return hidden_NH

    def _output(self, hidden_NH: Tensor) -> Tensor:
        output_N: Tensor = self.output(hidden_NH).squeeze(1)
        return output_N


class ServingDeepFM(nn.Module):
    """A trained DeepFM's function; inputs and output are those of ``DeepFM.forward``."""

    table: Tensor
    context_weight: Tensor
    candidate_weight: Tensor
    dynamic_weight: Tensor
    bias: Tensor
    hidden_bias: Tensor
    first_order: Tensor
    scale: Tensor
    pairwise: Tensor

    def __init__(self, network: DeepFM, layout: Layout) -> None:
        """Take the weights of ``network``, which is left as it is."""
        super().__init__()
        folded = network.folded()
        with torch.no_grad():
            size = folded.table.shape[1] - 1
            table = _blank_table(network)
            largest = torch.zeros(2)
            for first, piece in network.pieces():
                rows = without_squares(piece, first, layout)
                found = torch.stack([rows[:, 0].abs().max(), rows[:, 1:].abs().max()])
                largest = torch.maximum(largest, found)
                if network.elsewhere is None:
                    table = rows
            # The first-order weights enter the product, times zero, beside the embeddings.
            # They are brought to the embeddings' range, which int8 inputs of it share.
            scale = largest[0] / largest[1]
            scale = torch.where((scale > 0) & scale.isfinite(), scale, torch.ones(()))
            table[:, 0] /= scale
            mlp = folded.mlp
            weight = mlp.first.weight.detach()
            first_order = torch.zeros(1 + size)
            first_order[0] = scale
            pairwise = torch.full((1 + size,), 0.5)
            pairwise[0] = 0
        self.register_buffer("table", table)
        self.register_buffer("context_weight", self._widened(weight[:, : mlp.split], size))
        candidate = self._widened(weight[:, mlp.split :], size)
        self.dynamic = DynamicFields(layout) if splits_dynamic(network, layout) else None
        # Places of shared rows among the plain fields of the candidate, or of both of its groups.
        groups = [[False, True]] if self.dynamic is None else [[False], [True]]
        self.shared = [
            [
                place
                for place, slot in enumerate(s for s in layout.candidate if s.dynamic in group)
                if slot.name in layout.shared
            ]
            for group in groups
        ]
        if self.dynamic is not None:
            slots = layout.candidate + layout.candidate_lists
            stored = sum(not slot.dynamic for slot in slots) * (1 + size)
            candidate = _in_order(candidate, dynamic_last(layout))
            self.register_buffer("dynamic_weight", candidate[:, stored:].contiguous())
            candidate = candidate[:, :stored].contiguous()
        self.register_buffer("candidate_weight", candidate)
        self.register_buffer("first_order", first_order)
        self.register_buffer("scale", first_order[:1].clone())
        self.register_buffer("pairwise", pairwise)
        self.register_buffer("bias", folded.bias.detach())
        self.register_buffer("hidden_bias", mlp.first.bias.detach())
        self.deeper, self.output = mlp.deeper, mlp.output

    @staticmethod
    def _widened(weight_HZ: Tensor, size: int) -> Tensor:
        """Give a side's first-layer weights a zero for each field's first-order weight."""
        hidden, width = weight_HZ.shape
        weight_HFK = weight_HZ.reshape(hidden, width // size, size)
        return functional.pad(weight_HFK, (1, 0)).flatten(1)

    def forward(self, inputs: NetworkInputs) -> Tensor:
        """Return the logit float32 [N] of every row."""
        context_UH, context_UK = self._side(
            inputs.context,
            inputs.context_lists,
            inputs.context_value,
            self.context_weight,
            self.hidden_bias,
            (),
        )
        candidate = inputs.candidate, inputs.candidate_lists, inputs.candidate_value
        groups = [(candidate, self.candidate_weight)]
        if self.dynamic is not None:
            stored, dynamic = self.dynamic(*candidate)
            groups = [(stored, self.candidate_weight), (dynamic, self.dynamic_weight)]
        hidden_NH = of_rows(context_UH, inputs.row_context)
        total_NK = of_rows(context_UK, inputs.row_context)
        for (group, weight_HX), shared in zip(groups, self.shared, strict=True):
            group_NH, group_NK = self._side(*group, weight_HX, None, shared)
            hidden_NH, total_NK = hidden_NH + group_NH, total_NK + group_NK
        hidden_NH = functional.relu(hidden_NH)
        for linear in self.deeper:
            hidden_NH = functional.relu(linear(hidden_NH))
        fm_N = sum_of_rest(total_NK * (total_NK * self.pairwise + self.first_order))
        logit_N: Tensor = self.output(hidden_NH).squeeze(1) + fm_N + self.bias
        return logit_N

    def _side(
        self,
        index_RF: Tensor,
        lists_RL: Sequence[Tensor],
        value_RV: Tensor | None,
        weight_HZ: Tensor,
        bias_H: Tensor | None,
        shared: Sequence[int],
    ) -> tuple[Tensor, Tensor]:
        """Return a side's part of the first layer [R, H] and its rows' sum [R, 1 + K].

        ``shared`` are the places of the plain fields whose rows are shared.
        """
        plain_RFK, *late = single_fields(self.table, index_RF, value_RV)
        late += [mean_of_list(self.table, index_RL).unsqueeze(1) for index_RL in lists_RL]
        rows_RFK = plain_RFK
        if late:
            late = [torch.cat(late, 1)]
            rows_RFK = torch.cat([plain_RFK, *late], 1)
        late += [plain_RFK[:, place : place + 1] for place in shared]
        if not late:
            return functional.linear(rows_RFK.flatten(1), weight_HZ, bias_H), sum_of_fields(
                rows_RFK
            )
        late_RFK = torch.cat(late, 1) if len(late) > 1 else late[0]
        # By their squares, in the first column, which counts its scale.
        squares_R1 = sum_of_rest(late_RFK[:, :, 1:].square()).unsqueeze(1)
        taken_off_RK = functional.pad(0.5 * squares_R1 / self.scale, (0, rows_RFK.shape[2] - 1))
        hidden_RH = functional.linear(rows_RFK.flatten(1), weight_HZ, bias_H)
        return hidden_RH, sum_of_fields(rows_RFK) - taken_off_RK
