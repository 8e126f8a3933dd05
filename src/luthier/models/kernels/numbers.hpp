// Numbers as the kernels read and write them: float32 in registers, float or bf16 in memory.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

using i64 = int64_t;

using bf16 = uint16_t;

static inline float load(float x) { return x; }
static inline float load(bf16 x) {
    const uint32_t bits = uint32_t(x) << 16;
    float wide;
    __builtin_memcpy(&wide, &bits, 4);
    return wide;
}

template <class E>
static inline E narrow(float x);
template <>
inline float narrow<float>(float x) {
    return x;
}
template <>
inline bf16 narrow<bf16>(float x) {  // to nearest, ties to even
    uint32_t bits;
    __builtin_memcpy(&bits, &x, 4);
    return bf16((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// e^x within 2 units in the last place of float32: x = k ln 2 + r, a polynomial in r (Cephes' expf), 2^k by its exponent; 0 below 2^-126.
// A NaN stays one: the bounds are on the whole number k.
static inline float fast_exp(float x) {
    const float magic = 12582912.0f;  // adding 1.5 x 2^23 rounds to the nearest whole number
    const float k = (x * 1.44269504f + magic) - magic;
    float r = x - k * 0.693359375f;
    r = r + k * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    int32_t exponent = int32_t(k);
    exponent = exponent < -127 ? -127 : exponent;
    exponent = exponent > 127 ? 127 : exponent;
    const int32_t bits = (exponent + 127) << 23;
    float scale;
    __builtin_memcpy(&scale, &bits, 4);
    return p * scale;
}
