"""One pass of SGD or AdamW over k copies and their moments, with their next mixture, compiled for the CPU.

See ``fused``. ``moments``: [1, k, n] momentum, or [2, k, n] the means of gradients and of their squares.
"""

import math

import numba

BLOCK = 4096  # weights that a thread updates in all copies before it goes on: gradient and mixture stay in its cache
MATHS = {"contract", "nsz"}
SGD, NESTEROV, ADAMW = range(3)

# Functions of their own, of slices: LLVM makes vector instructions of these, and none of the same loops over rows of
# matrices, which take six times as long; nor of a division that must look for 0 first, hence error_model


@numba.njit(nogil=True, cache=True, fastmath=MATHS, error_model="numpy")
def _sgd(weights, buffer, gradient, p, numbers, nesterov, mixed, ahead):  # type: ignore[no-untyped-def]
    lr, mu, decay = numbers[0], numbers[1], numbers[2]
    if nesterov:
        for j in range(len(weights)):
            value = p * gradient[j] + decay * weights[j]
            buffer[j] = mu * buffer[j] + value
            weights[j] -= lr * (value + mu * buffer[j])
            mixed[j] += ahead * weights[j]
    else:
        for j in range(len(weights)):
            buffer[j] = mu * buffer[j] + (p * gradient[j] + decay * weights[j])
            weights[j] -= lr * buffer[j]
            mixed[j] += ahead * weights[j]


@numba.njit(nogil=True, cache=True, fastmath=MATHS, error_model="numpy")
def _adamw(weights, first, second, gradient, p, numbers, mixed, ahead):  # type: ignore[no-untyped-def]
    size, kept, beta1, new1, beta2, new2, root, eps = numbers
    for j in range(len(weights)):
        g = p * gradient[j]
        first[j] = beta1 * first[j] + new1 * g
        second[j] = beta2 * second[j] + new2 * g * g
        weights[j] = kept * weights[j] - size * first[j] / (math.sqrt(second[j]) / root + eps)
        mixed[j] += ahead * weights[j]


@numba.njit(nogil=True, cache=True, fastmath=MATHS, error_model="numpy")
def _of_block(  # type: ignore[no-untyped-def]
    rule, stack, moments, gradient, coefficients, numbers, mixed, ahead, start
):
    stop = min(start + BLOCK, len(gradient))
    mixed[start:stop] = 0
    for i in range(len(stack)):
        weights, first = stack[i, start:stop], moments[0, i, start:stop]
        if rule == ADAMW:
            second = moments[1, i, start:stop]
            _adamw(weights, first, second, gradient[start:stop], coefficients[i], numbers, mixed[start:stop], ahead[i])
        else:
            _sgd(
                weights, first, gradient[start:stop], coefficients[i], numbers, rule == NESTEROV, mixed[start:stop],
                ahead[i],
            )  # fmt: skip


@numba.njit(nogil=True, cache=True, fastmath=MATHS, error_model="numpy")
def whole(rule, stack, moments, gradient, coefficients, numbers, mixed, ahead):  # type: ignore[no-untyped-def]
    for start in range(0, len(gradient), BLOCK):
        _of_block(rule, stack, moments, gradient, coefficients, numbers, mixed, ahead, start)


@numba.njit(nogil=True, cache=True, fastmath=MATHS, error_model="numpy", parallel=True)
def in_threads(rule, stack, moments, gradient, coefficients, numbers, mixed, ahead):  # type: ignore[no-untyped-def]
    for block in numba.prange((len(gradient) + BLOCK - 1) // BLOCK):
        _of_block(rule, stack, moments, gradient, coefficients, numbers, mixed, ahead, block * BLOCK)
