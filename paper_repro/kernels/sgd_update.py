"""One pass of SGD over k copies, their momentum and their next mixture, compiled for the CPU. See ``fused.update``."""

import numba

BLOCK = 4096  # weights that a thread updates in all copies before it goes on: gradient and mixture stay in its cache
MATHS = {"contract", "nsz"}


@numba.njit(nogil=True, cache=True, fastmath=MATHS)
def _of_copy(weights, buffer, gradient, p, numbers, nesterov, mixed, ahead):  # type: ignore[no-untyped-def]
    # A function of its own, of slices: LLVM makes vector instructions of this, and none of the same loop over rows of
    # matrices, which takes six times as long
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


@numba.njit(nogil=True, cache=True, fastmath=MATHS)
def _of_block(  # type: ignore[no-untyped-def]
    stack, momentum, gradient, coefficients, numbers, nesterov, mixed, ahead, start
):
    stop = min(start + BLOCK, len(gradient))
    mixed[start:stop] = 0
    for i in range(len(stack)):
        _of_copy(
            stack[i, start:stop], momentum[i, start:stop], gradient[start:stop], coefficients[i], numbers, nesterov,
            mixed[start:stop], ahead[i],
        )  # fmt: skip


@numba.njit(nogil=True, cache=True, fastmath=MATHS)
def whole(stack, momentum, gradient, coefficients, numbers, nesterov, mixed, ahead):  # type: ignore[no-untyped-def]
    for start in range(0, len(gradient), BLOCK):
        _of_block(stack, momentum, gradient, coefficients, numbers, nesterov, mixed, ahead, start)


@numba.njit(nogil=True, cache=True, fastmath=MATHS, parallel=True)
def in_threads(  # type: ignore[no-untyped-def]
    stack, momentum, gradient, coefficients, numbers, nesterov, mixed, ahead
):
    for block in numba.prange((len(gradient) + BLOCK - 1) // BLOCK):
        _of_block(stack, momentum, gradient, coefficients, numbers, nesterov, mixed, ahead, block * BLOCK)
