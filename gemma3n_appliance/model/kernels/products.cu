// Rows of weights: what the numbers are that 16 bytes of them hold, and what a sum of products with those
// stands for.
struct Numbers {
    static const int HELD = 16 / sizeof(T);
    static const bool HAS_ZEROS = false;
    const T* weights;
    const unsigned short* scales;  // none
    int num_inputs;

    __device__ __forceinline__ const void* row(int64 output) const { return weights + output * num_inputs; }
    __device__ __forceinline__ static float number(const Bytes& held, int i) { return up(((const T*)&held)[i]); }
    __device__ __forceinline__ float part(float sum, float, int64, int) const { return sum; }
    __device__ __forceinline__ float whole(float sum, int64) const { return sum; }
};

// A float of 2**23 and more has an integer in its low bits.
const unsigned INTEGER = 0x4b000000;
const float FIRST_INTEGER = 8388608.0f;

__device__ __forceinline__ float scale_at(const unsigned short* scales, int64 at) {
    return __uint_as_float((unsigned)scales[at] << 16);
}

struct Int8 {
    static const int HELD = 16;
    static const bool HAS_ZEROS = false;
    const signed char* weights;
    const unsigned short* scales;  // bfloat16, one for each row
    int num_inputs;

    __device__ __forceinline__ const void* row(int64 output) const { return weights + output * num_inputs; }
    __device__ __forceinline__ static float number(const Bytes& held, int i) {
        const unsigned unsigned_bytes = held.x[i / 4] ^ 0x80808080;
        return __uint_as_float(__byte_perm(unsigned_bytes, INTEGER, 0x7650 | i % 4)) - (FIRST_INTEGER + 128.0f);
    }
    __device__ __forceinline__ float part(float sum, float, int64, int) const { return sum; }
    __device__ __forceinline__ float whole(float sum, int64 output) const { return sum * scale_at(scales, output); }
};

struct Int4 {
    static const int HELD = 32;  // a group
    static const bool HAS_ZEROS = true;
    const unsigned char* weights;
    const unsigned short* scales;  // bfloat16 [num_outputs, groups, 2]: of a group, and what an 8 stands for
    int num_inputs;

    __device__ __forceinline__ const void* row(int64 output) const { return weights + output * (num_inputs / 2); }
    __device__ __forceinline__ static float number(const Bytes& held, int i) {
        // The first of two is the higher half of its byte.
        const int shift = 8 * (i % 8 / 2) + (i % 2 ? 0 : 4);
        return __uint_as_float((held.x[i / 8] >> shift & 15) | INTEGER) - (FIRST_INTEGER + 8.0f);
    }
    __device__ __forceinline__ float part(float sum, float inputs, int64 output, int group) const {
        const int64 at = (output * (num_inputs / HELD) + group) * 2;
        return scale_at(scales, at) * sum + scale_at(scales, at + 1) * inputs;
    }
    __device__ __forceinline__ float whole(float sum, int64) const { return sum; }
};

// Products of [TOKENS, num_inputs] with rows of weights, each summed up over a warp.
template <int TOKENS, int ROWS, typename Weights>
__device__ __forceinline__ void products(
    const Weights& weights, const int (&outputs)[ROWS], const T* x, int stride, float (&sums)[ROWS][TOKENS]) {
    const int HELD = Weights::HELD, READ = HELD < 8 ? HELD : 8, IN_16_BYTES = 16 / sizeof(T), FAR = ROWS > 1 ? 4 : 8;
    const int lane = threadIdx.x % 32;
    const uint4* rows[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) rows[r] = (const uint4*)weights.row(outputs[r]);
    const int num_held = weights.num_inputs / HELD;
#pragma unroll FAR
    for (int at = lane; at < num_held; at += 32) {
        Bytes held[ROWS];
        float parts[ROWS][TOKENS] = {}, inputs[TOKENS] = {};
#pragma unroll
        for (int r = 0; r < ROWS; r++) held[r] = bytes(__ldcs(rows[r] + at));
#pragma unroll
        for (int i = 0; i < HELD; i += READ) {
            float read[TOKENS][READ];
#pragma unroll
            for (int t = 0; t < TOKENS; t++)
#pragma unroll
                for (int e = 0; e < READ; e += IN_16_BYTES) {
                    const Bytes some = bytes(*(const uint4*)(x + (int64)t * stride + at * HELD + i + e));
#pragma unroll
                    for (int n = 0; n < IN_16_BYTES; n++) read[t][e + n] = up(((const T*)&some)[n]);
                }
#pragma unroll
            for (int e = 0; e < READ; e++) {
#pragma unroll
                for (int r = 0; r < ROWS; r++) {
                    const float number = Weights::number(held[r], i + e);
#pragma unroll
                    for (int t = 0; t < TOKENS; t++) parts[r][t] += number * read[t][e];
                }
                if (Weights::HAS_ZEROS)
#pragma unroll
                    for (int t = 0; t < TOKENS; t++) inputs[t] += read[t][e];
            }
        }
#pragma unroll
        for (int r = 0; r < ROWS; r++)
#pragma unroll
            for (int t = 0; t < TOKENS; t++) sums[r][t] += weights.part(parts[r][t], inputs[t], outputs[r], at);
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
        for (int t = 0; t < TOKENS; t++) sums[r][t] = weights.whole(warp_sum(sums[r][t]), outputs[r]);
}

// Asks for what a warp reads first, the beginning of a row of weights.
template <typename Weights>
__device__ __forceinline__ void prefetch_row(const Weights& weights, int output) {
    const int LINE = 128, MOST = 4;
    const char* row = (const char*)weights.row(output);
    const int num_bytes = weights.num_inputs / Weights::HELD * 16;
    for (int line = threadIdx.x % 32; line < 32 * MOST && line * LINE < num_bytes; line += 32) prefetch(row + line * LINE);
}

// [TOKENS, num_inputs] times rows of weights, a warp for ROWS of them; where there are factors, what comes out
// goes through gelu and is multiplied by them.
template <int TOKENS, int ROWS, typename Weights>
__device__ __forceinline__ void multiply(
    const T* x, int stride, Weights weights, T* out, int num_outputs, const T* factors, int factor_stride) {
    const int lane = threadIdx.x % 32, first = (blockIdx.x * MULTIPLYING_WARPS + threadIdx.x / 32) * ROWS;
    int outputs[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) outputs[r] = min(first + r, num_outputs - 1);
    let_next_begin();
#pragma unroll
    for (int r = 0; r < ROWS; r++) prefetch_row(weights, outputs[r]);
    await_previous();
    if (first >= num_outputs) return;
    float sums[ROWS][TOKENS] = {};
    products(weights, outputs, x, stride, sums);
    if (lane) return;
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
        for (int t = 0; t < TOKENS; t++) {
            if (first + r >= num_outputs) continue;
            float sum = sums[r][t];
            if (factors) sum = gelu(up(down(sum))) * up(factors[(int64)t * factor_stride + outputs[r]]);
            out[(int64)t * num_outputs + outputs[r]] = down(sum);
        }
}

#define FOR_EACH_PACKING(DEFINE) DEFINE(numbers, T, Numbers) DEFINE(int8, signed char, Int8) DEFINE(int4, unsigned char, Int4)

#define MULTIPLY(TOKENS, PACKING, HELD, WEIGHTS)                                                                \
    extern "C" __global__ void multiply_##PACKING##_##TOKENS(                                                   \
        const T* x, int stride, const HELD* weights, const unsigned short* scales, int num_inputs, T* out,      \
        int num_outputs, const T* factors, int factor_stride) {                                                 \
        multiply<TOKENS, ROWS_OF_A_WARP>(                                                                       \
            x, stride, WEIGHTS{weights, scales, num_inputs}, out, num_outputs, factors, factor_stride);         \
    }
#define MULTIPLY_1(PACKING, HELD, WEIGHTS) MULTIPLY(1, PACKING, HELD, WEIGHTS)
#define MULTIPLY_2(PACKING, HELD, WEIGHTS) MULTIPLY(2, PACKING, HELD, WEIGHTS)
#define MULTIPLY_4(PACKING, HELD, WEIGHTS) MULTIPLY(4, PACKING, HELD, WEIGHTS)
#define MULTIPLY_8(PACKING, HELD, WEIGHTS) MULTIPLY(8, PACKING, HELD, WEIGHTS)
FOR_EACH_PACKING(MULTIPLY_1)
FOR_EACH_PACKING(MULTIPLY_2)
FOR_EACH_PACKING(MULTIPLY_4)
FOR_EACH_PACKING(MULTIPLY_8)
