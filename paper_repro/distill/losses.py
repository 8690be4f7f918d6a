"""Training losses of the Titans paper and of its later competitors, as pure functions.

Notation (Rawat et al., arXiv 2110.10305v1): L classes, teacher probabilities p, student probabilities q,
``H(t, q) = -sum_k t_k log q_k``. Every loss is the mean over the batch. Logits are float [B, L]; labels int64 [B].
Equation numbers are those a third party reports (certainty: secondary); where none is known none is given.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean of H(target, softmax(logits)); ``target`` is a distribution per row [B, L]."""
    return -(target * F.log_softmax(logits, dim=-1)).sum(dim=-1).mean()


def margin(probabilities: Tensor) -> Tensor:
    """Top-1 minus top-2 probability [B], in [0, 1] (eq. 6: the margin of scores, not of logits)."""
    top = probabilities.topk(2, dim=-1).values
    return top[..., 0] - top[..., 1]


def smoothed_label(labels: Tensor, num_classes: int, alpha: float) -> Tensor:
    """``(1 - alpha) onehot(y) + alpha / L`` [B, L]; its own margin is exactly ``1 - alpha``."""
    onehot = F.one_hot(labels, num_classes).to(torch.get_default_dtype())
    return (1 - alpha) * onehot + alpha / num_classes


def distillation(
    logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, a: float, b: float, temperature: float = 1.0
) -> Tensor:
    """``a H(onehot(y), q) + b T^2 H(p_T, q_T)`` with both softmaxes at temperature T (eqs. 3-5).

    ``a=0, b=1, T=1`` is the paper's baseline, standard distillation; ``a=1, b=0`` is plain training; ``a, b > 0`` is
    the control the paper lacks. The factor T^2 keeps the gradient's scale (Hinton et al. 2015).
    """
    loss = logits.new_zeros(())
    if a:
        loss = loss + a * F.cross_entropy(logits, labels)
    if b:
        soft = F.softmax(teacher_logits / temperature, dim=-1)
        loss = loss + b * temperature**2 * soft_cross_entropy(logits / temperature, soft)
    return loss


def easy_by_margin(teacher_logits: Tensor, rho: float) -> Tensor:
    """Boolean [B]: the teacher's margin exceeds ``rho`` (strictly), whether or not the teacher is right."""
    return margin(F.softmax(teacher_logits, dim=-1)) > rho


def margin_based(logits: Tensor, teacher_logits: Tensor, labels: Tensor, easy: Tensor, *, alpha: float) -> Tensor:
    """Margin-based distillation (eq. 9): teacher softmax on easy examples, smoothed true label on hard ones.

    ``easy`` is boolean [B]: ``easy_by_margin(...)`` for the paper's method, any other mask for a control.
    """
    target = torch.where(
        easy.unsqueeze(-1), F.softmax(teacher_logits, dim=-1), smoothed_label(labels, logits.shape[-1], alpha)
    )
    return soft_cross_entropy(logits, target)


def class_specific(
    logits: Tensor, teacher_logits: Tensor, labels: Tensor, in_domain: Tensor, *, alpha: float
) -> Tensor:
    """Class-specific distillation CD-I (eq. 4): like ``margin_based`` with 'easy' = the true label is in L_in.

    ``in_domain`` is boolean [L].
    """
    return margin_based(logits, teacher_logits, labels, in_domain[labels], alpha=alpha)


def abstain_target(teacher_logits: Tensor, labels: Tensor, in_domain: Tensor) -> Tensor:
    """Target of CD-III [B, |L_in| + 1]; the last column is the abstain class.

    In-domain rows: the teacher softmax restricted to L_in and renormalised, 0 on abstain. Other rows: all on abstain.
    The renormalisation is a third party's reading (secondary), not verified in the paper.
    """
    inside = F.softmax(teacher_logits[:, in_domain], dim=-1)
    target = F.pad(inside, (0, 1))
    abstain = F.one_hot(torch.tensor(target.shape[1] - 1), target.shape[1]).to(target)
    return torch.where(in_domain[labels].unsqueeze(-1), target, abstain)


def class_specific_abstain(logits: Tensor, teacher_logits: Tensor, labels: Tensor, in_domain: Tensor) -> Tensor:
    """CD-III: cross-entropy to ``abstain_target``; the student has |L_in| + 1 outputs."""
    return soft_cross_entropy(logits, abstain_target(teacher_logits, labels, in_domain))


def gatekeeper(logits: Tensor, labels: Tensor, *, alpha: float) -> Tensor:
    """Gatekeeper fine-tuning (Rabanser et al., arXiv 2502.19335): confidence down where the student errs.

    ``alpha`` x cross-entropy over the examples the student gets right + ``(1 - alpha)`` x KL(q || uniform) over those
    it gets wrong, both divided by the batch size. Right and wrong are judged on the same forward pass.
    """
    log_q = F.log_softmax(logits, dim=-1)
    right = logits.argmax(dim=-1) == labels
    cross_entropy = F.nll_loss(log_q, labels, reduction="none")
    to_uniform = (log_q.exp() * log_q).sum(dim=-1) + torch.log(torch.tensor(float(logits.shape[-1])))
    return torch.where(right, alpha * cross_entropy, (1 - alpha) * to_uniform).mean()
