"""One pass of SGD over k copies and their momentum, compiled for the CPU. See ``fused.update``."""

import numba

BLOCK = 4096  # weights that a thread updates in all copies before it goes on: their gradient stays in its cache
MATHS = {"contract", "nsz"}


@numba.njit(nogil=True, cache=True, fastmath=MATHS, inline="always")
def _of_block(stack, momentum, gradient, coefficients, numbers, nesterov, start, stop):  # type: ignore[no-untyped-def]
    lr, mu, decay = numbers[0], numbers[1], numbers[2]
    for i in range(len(stack)):
        p, weights, buffer = coefficients[i], stack[i], momentum[i]
        if nesterov:
            for j in range(start, stop):
                value = p * gradient[j] + decay * weights[j]
                buffer[j] = mu * buffer[j] + value
                weights[j] -= lr * (value + mu * buffer[j])
        else:
            for j in range(start, stop):
                buffer[j] = mu * buffer[j] + (p * gradient[j] + decay * weights[j])
                weights[j] -= lr * buffer[j]


@numba.njit(nogil=True, cache=True, fastmath=MATHS)
def whole(stack, momentum, gradient, coefficients, numbers, nesterov):  # type: ignore[no-untyped-def]
    for start in range(0, len(gradient), BLOCK):
        stop = min(start + BLOCK, len(gradient))
        _of_block(stack, momentum, gradient, coefficients, numbers, nesterov, start, stop)


@numba.njit(nogil=True, cache=True, fastmath=MATHS, parallel=True)
def in_threads(stack, momentum, gradient, coefficients, numbers, nesterov):  # type: ignore[no-untyped-def]
    for block in numba.prange((len(gradient) + BLOCK - 1) // BLOCK):
        start = block * BLOCK
        stop = min(start + BLOCK, len(gradient))
        _of_block(stack, momentum, gradient, coefficients, numbers, nesterov, start, stop)
