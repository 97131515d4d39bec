// What a step of Gemma 3n's text model is made of beside its matrix products, each as one kernel, and the
// products with few tokens, which cost what their weights cost to read.
//
// Compiled by NVRTC at start, for the numbers the model computes in: BFLOAT16 is 1 or 0, GROUP says how many
// query heads share a key head; the rest, how launches are cut up, is cuda_kernels.py's. Sums are in float32. Rows of streams are five to a token, see layer.py.

#if BFLOAT16
typedef unsigned short T;
__device__ __forceinline__ float up(T x) { return __uint_as_float((unsigned)x << 16); }
__device__ __forceinline__ T down(float x) {
    T rounded;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(rounded) : "f"(x));
    return rounded;
}
#else
typedef float T;
__device__ __forceinline__ float up(T x) { return x; }
__device__ __forceinline__ T down(float x) { return x; }
#endif

typedef long long int64;

const float HALF_POWER = 0.70710678118654752f;
#define MINUS_INFINITY (-__int_as_float(0x7f800000))

struct alignas(4 * sizeof(T)) Four {
    T x[4];
};
struct alignas(16) Bytes {
    unsigned x[4];
};

__device__ __forceinline__ Bytes bytes(uint4 x) { return Bytes{{x.x, x.y, x.z, x.w}}; }
__device__ __forceinline__ Four four(const T* from) { return *(const Four*)from; }

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int other = 16; other; other /= 2) x += __shfl_xor_sync(~0u, x, other);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int other = 16; other; other /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, other));
    return x;
}

// Gives every thread of a block the sums over all of them.
template <int N>
__device__ __forceinline__ void block_sum(float (&x)[N]) {
    __shared__ float of_warps[N][32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int n = 0; n < N; n++) x[n] = warp_sum(x[n]);
    __syncthreads();  // what an earlier call left may still be read
    if (lane == 0)
        for (int n = 0; n < N; n++) of_warps[n][warp] = x[n];
    __syncthreads();
#pragma unroll
    for (int n = 0; n < N; n++) x[n] = warp_sum(lane < blockDim.x / 32 ? of_warps[n][lane] : 0.0f);
}

__device__ __forceinline__ float gelu(float x) {
    return 0.5f * x * (1.0f + tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x)));
}

__device__ __forceinline__ float rms_scale(float squares, int size, float eps) {
    return rsqrtf(squares / size + eps);
}

// AltUp's router, of a row that is x[i] for the thread that has i: adds to squares, and to the four dots.
__device__ __forceinline__ void route(
    float (&sums)[5], float x, int i, const T* router, const T* router_norm, int hidden) {
    sums[0] += x * x;
    const float scaled = x * up(router_norm[i]);
#pragma unroll
    for (int n = 0; n < 4; n++) sums[1 + n] += scaled * up(router[n * hidden + i]);
}

// AltUp's prediction: mixes a token's streams in their place, and norms the first for what follows.
// A block for each token, and `hidden` floats of shared memory.
extern "C" __global__ void __launch_bounds__(1024) predict(
    T* rows, const T* router, const T* router_norm, const T* prediction, const T* norm, T* normed, int hidden,
    float eps) {
    extern __shared__ float first[];
    __shared__ float mix[4][4];
    T* streams = rows + (int64)blockIdx.x * 5 * hidden;
    float sums[5] = {};
#pragma unroll 2
    for (int i = threadIdx.x; i < hidden; i += blockDim.x)
        route(sums, up(streams[i]), i, router, router_norm, hidden);
    block_sum(sums);
    const float scale = rms_scale(sums[0], hidden, eps);
    if (threadIdx.x < 16) {
        const int to = threadIdx.x / 4, from = threadIdx.x % 4;
        float weight = 0.0f;
        for (int n = 0; n < 4; n++) weight += up(prediction[(to * 5 + from) * 4 + n]) * tanhf(sums[1 + n] * scale);
        mix[to][from] = weight;
    }
    __syncthreads();
    float squares[1] = {};
    for (int i = 4 * threadIdx.x; i < hidden; i += 4 * blockDim.x) {
        Four old[4], made[4];
        for (int s = 0; s < 4; s++) old[s] = four(streams + s * hidden + i);
#pragma unroll
        for (int e = 0; e < 4; e++) {
#pragma unroll
            for (int to = 0; to < 4; to++) {
                float x = up(old[to].x[e]);
#pragma unroll
                for (int from = 0; from < 4; from++) x += mix[to][from] * up(old[from].x[e]);
                made[to].x[e] = down(x);
            }
            const float x = up(made[0].x[e]);
            first[i + e] = x;
            squares[0] += x * x;
        }
        for (int s = 0; s < 4; s++) *(Four*)(streams + s * hidden + i) = made[s];
    }
    block_sum(squares);
    const float shorter = rms_scale(squares[0], hidden, eps);
    normed += (int64)blockIdx.x * hidden;
#pragma unroll 2
    for (int i = threadIdx.x; i < hidden; i += blockDim.x) normed[i] = down(first[i] * shorter * up(norm[i]));
}

// Norms the heads of queries, keys and values, turns them by their positions, and puts queries side by side,
// keys and values into the cache. A block for each token, a warp for each head.
extern "C" __global__ void rotate(
    const T* projected, int stride, const T* norm, int norm_stride, const T* cosines, const T* sines,
    int num_turned, const int64* slots, const int64* positions, int num_new, T* queries, T* cache, int capacity,
    int num_heads, int num_kv_heads, int head_dim, float eps) {
    const int token = blockIdx.x, head = threadIdx.x / 32, lane = threadIdx.x % 32;
    const T* from = projected + (int64)token * stride + head * head_dim;
    norm += head * norm_stride;
    const int64 turn = ((int64)token * num_turned + head) * head_dim;
    float squares = 0.0f;
    for (int i = lane; i < head_dim; i += 32) squares += up(from[i]) * up(from[i]);
    const float scale = rms_scale(warp_sum(squares), head_dim, eps);
    T* to = queries + ((int64)token * num_heads + head) * head_dim;
    if (head >= num_heads)
        to = cache + ((slots[token / num_new] * capacity + positions[token]) * 2 * num_kv_heads + head - num_heads) *
                         head_dim;
    for (int i = lane; i < head_dim; i += 32) {
        const int other = i < head_dim / 2 ? i + head_dim / 2 : i - head_dim / 2;
        const float x = up(from[i]) * scale * up(norm[i]), y = up(from[other]) * scale * up(norm[other]);
        to[i] = down(x * up(cosines[turn + i]) + y * up(sines[turn + i]));
    }
}

__device__ __forceinline__ void eight(float (&to)[8], const T* from) {
    const Four low = four(from), high = four(from + 4);
#pragma unroll
    for (int e = 0; e < 4; e++) to[e] = up(low.x[e]), to[4 + e] = up(high.x[e]);
}

const int KEYS_AT_ONCE = 4;

// What one query of every slot sees: blocks for parts of its keys, for each key head, for each slot. The last
// to end puts the parts together; `ended` is zero before and after. head_dim is 8 to 256.
extern "C" __global__ void attend(
    const T* queries, const T* cache, const int64* slots, const int64* positions, int capacity, int window,
    float* parts, int* ended, T* seen, int num_kv_heads, int head_dim) {
    const int part = blockIdx.x, num_parts = gridDim.x, kv_head = blockIdx.y, row = blockIdx.z;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const bool has_numbers = lane * 8 < head_dim;
    const int end = (int)positions[row] + 1;
    const int start = window && end > window ? end - window : 0;
    const int share = (end - start + num_parts - 1) / num_parts;
    const int from = start + part * share, to = min(from + share, end);
    const int64 head = (int64)row * num_kv_heads + kv_head;
    const int64 step = (int64)2 * num_kv_heads * head_dim;
    const T* keys = cache + slots[row] * capacity * step + kv_head * head_dim + lane * 8;
    const T* values = keys + (int64)num_kv_heads * head_dim;

    float query[GROUP][8] = {}, sum[GROUP][8] = {}, highest[GROUP], total[GROUP];
    for (int g = 0; g < GROUP; g++) {
        if (has_numbers) eight(query[g], queries + (head * GROUP + g) * head_dim + lane * 8);
        highest[g] = MINUS_INFINITY, total[g] = 0.0f;
    }
    for (int first = from + warp * KEYS_AT_ONCE; first < to; first += ATTENDING_WARPS * KEYS_AT_ONCE) {
        float key[KEYS_AT_ONCE][8] = {}, value[KEYS_AT_ONCE][8] = {};
#pragma unroll
        for (int k = 0; k < KEYS_AT_ONCE; k++)
            if (has_numbers && first + k < to) {
                eight(key[k], keys + (first + k) * step);
                eight(value[k], values + (first + k) * step);
            }
#pragma unroll
        for (int k = 0; k < KEYS_AT_ONCE; k++) {
            if (first + k >= to) break;
#pragma unroll
            for (int g = 0; g < GROUP; g++) {
                float score = 0.0f;
                for (int e = 0; e < 8; e++) score += query[g][e] * key[k][e];
                score = warp_sum(score);
                const float high = fmaxf(highest[g], score);
                const float fades = expf(highest[g] - high), weight = expf(score - high);
                highest[g] = high, total[g] = total[g] * fades + weight;
                for (int e = 0; e < 8; e++) sum[g][e] = sum[g][e] * fades + weight * value[k][e];
            }
        }
    }

    extern __shared__ float of_warps[];  // [warps][GROUP][head_dim]
    __shared__ float highest_of[ATTENDING_WARPS][GROUP], total_of[ATTENDING_WARPS][GROUP];
    for (int g = 0; g < GROUP; g++) {
        if (has_numbers)
            for (int e = 0; e < 8; e++) of_warps[(warp * GROUP + g) * head_dim + lane * 8 + e] = sum[g][e];
        if (lane == 0) highest_of[warp][g] = highest[g], total_of[warp][g] = total[g];
    }
    __syncthreads();
    const int width = head_dim + 2;
    parts += head * num_parts * GROUP * width;
    for (int i = threadIdx.x; i < GROUP * head_dim; i += blockDim.x) {
        const int g = i / head_dim;
        float high = MINUS_INFINITY, all = 0.0f, x = 0.0f;
        for (int w = 0; w < ATTENDING_WARPS; w++) high = fmaxf(high, highest_of[w][g]);
        for (int w = 0; w < ATTENDING_WARPS; w++) {
            if (total_of[w][g] == 0.0f) continue;  // no key; NaN goes on
            const float fades = expf(highest_of[w][g] - high);
            all += total_of[w][g] * fades, x += of_warps[w * GROUP * head_dim + i] * fades;
        }
        float* mine = parts + (part * GROUP + g) * width;
        mine[2 + i % head_dim] = x;
        if (i % head_dim == 0) mine[0] = high, mine[1] = all;
    }

    __shared__ bool is_last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        is_last = atomicAdd(ended + head, 1) == num_parts - 1;
        if (is_last) ended[head] = 0;
    }
    __syncthreads();
    if (!is_last) return;
    __threadfence();
    __shared__ float faded[GROUP][MOST_PARTS];
    for (int g = warp; g < GROUP; g += ATTENDING_WARPS) {
        const float* one = parts + (lane * GROUP + g) * width;
        const float high = lane < num_parts ? one[0] : MINUS_INFINITY;
        const float fades = expf(high - warp_max(high));  // some part has a key
        faded[g][lane] = fades / warp_sum(lane < num_parts ? one[1] * fades : 0.0f);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < GROUP * head_dim; i += blockDim.x) {
        const int g = i / head_dim;
        const float* one = parts + g * width + 2 + i % head_dim;
        float x = 0.0f;
#pragma unroll 8
        for (int p = 0; p < num_parts; p++) x += one[p * GROUP * width] * faded[g][p];
        seen[head * GROUP * head_dim + i] = down(x);
    }
}

// What attention and LAuReL found, normed and added up, and normed for the feed-forward network.
// A block for each token, and `hidden` floats of shared memory.
extern "C" __global__ void __launch_bounds__(1024) join(
    const T* attended, const T* laurel, const T* rows, const T* normed, const T* attention_norm,
    const T* laurel_norm, const T* next_norm, T* gated, T* next, int hidden, float eps) {
    extern __shared__ float whole[];
    const int64 start = (int64)blockIdx.x * hidden;
    const T* active = rows + 5 * start;
    float squares[2] = {};
#pragma unroll 2
    for (int i = threadIdx.x; i < hidden; i += blockDim.x) {
        const float x = up(attended[start + i]), y = up(laurel[start + i]);
        squares[0] += x * x, squares[1] += y * y;
    }
    block_sum(squares);
    const float of_attended = rms_scale(squares[0], hidden, eps), of_laurel = rms_scale(squares[1], hidden, eps);
    float sum[1] = {};
#pragma unroll 2
    for (int i = threadIdx.x; i < hidden; i += blockDim.x) {
        const float x = up(attended[start + i]) * of_attended * up(attention_norm[i]) +
                        up(laurel[start + i]) * of_laurel * up(laurel_norm[i]) +
                        HALF_POWER * (up(active[i]) + up(normed[start + i]));
        const T rounded = down(x);
        gated[start + i] = rounded;
        whole[i] = up(rounded);
        sum[0] += whole[i] * whole[i];
    }
    block_sum(sum);
    const float scale = rms_scale(sum[0], hidden, eps);
#pragma unroll 2
    for (int i = threadIdx.x; i < hidden; i += blockDim.x)
        next[start + i] = down(whole[i] * scale * up(next_norm[i]));
}

// Gate and up → what goes down; with a cutoff, all but the most excited neurons rest.
// Blocks for each token: one where there is a cutoff, else as many as there are parts.
extern "C" __global__ void __launch_bounds__(1024) activate(const T* gate_and_up, T* out, int size, float cutoff, int is_cut) {
    const T* gates = gate_and_up + (int64)blockIdx.x * 2 * size;
    const T* ups = gates + size;
    out += (int64)blockIdx.x * size;
    float rest = 0.0f;
    if (is_cut) {
        float sums[2] = {};
        for (int i = 4 * threadIdx.x; i < size; i += 4 * blockDim.x) {
            const Four gate = four(gates + i);
            for (int e = 0; e < 4; e++) sums[0] += up(gate.x[e]);
        }
        block_sum(sums);
        const float mean = sums[0] / size;
        sums[1] = 0.0f;
        for (int i = 4 * threadIdx.x; i < size; i += 4 * blockDim.x) {
            const Four gate = four(gates + i);
            for (int e = 0; e < 4; e++) sums[1] += (up(gate.x[e]) - mean) * (up(gate.x[e]) - mean);
        }
        block_sum(sums);
        rest = mean + cutoff * sqrtf(sums[1] / size);
    }
    for (int i = 4 * (blockIdx.y * blockDim.x + threadIdx.x); i < size; i += 4 * gridDim.y * blockDim.x) {
        const Four gate = four(gates + i), factor = four(ups + i);
        Four made;
        for (int e = 0; e < 4; e++) {
            float x = up(gate.x[e]);
            if (is_cut) x = x < rest ? 0.0f : x - rest;  // NaN stays
            made.x[e] = down(gelu(x) * up(factor.x[e]));
        }
        *(Four*)(out + i) = made;
    }
}

// AltUp's correction: gives every stream its share of what the layer made of the first.
// A block for each token, and `hidden` floats of shared memory.
extern "C" __global__ void __launch_bounds__(1024) correct(
    T* rows, const T* gated, const T* fed, const T* norm, const T* router, const T* router_norm,
    const T* correction, int hidden, float eps) {
    extern __shared__ float made[];
    __shared__ float shares[4];
    const int64 start = (int64)blockIdx.x * hidden;
    T* streams = rows + 5 * start;
    float squares[1] = {};
#pragma unroll 2
    for (int i = threadIdx.x; i < hidden; i += blockDim.x) squares[0] += up(fed[start + i]) * up(fed[start + i]);
    block_sum(squares);
    const float of_fed = rms_scale(squares[0], hidden, eps);
    float sums[5] = {};
#pragma unroll 2
    for (int i = threadIdx.x; i < hidden; i += blockDim.x) {
        made[i] = up(down(up(gated[start + i]) + up(down(up(fed[start + i]) * of_fed * up(norm[i])))));
        route(sums, made[i], i, router, router_norm, hidden);
    }
    block_sum(sums);
    const float scale = rms_scale(sums[0], hidden, eps);
    if (threadIdx.x < 4) {
        float share = 1.0f;
        for (int n = 0; n < 4; n++)
            share += up(correction[(threadIdx.x * 5 + 4) * 4 + n]) * tanhf(sums[1 + n] * scale);
        shares[threadIdx.x] = share;
    }
    __syncthreads();
#pragma unroll 2
    for (int i = threadIdx.x; i < hidden; i += blockDim.x) {
        const float new_to_it = made[i] - up(streams[i]);
        for (int s = 0; s < 4; s++)
            streams[s * hidden + i] = down(up(streams[s * hidden + i]) + shares[s] * new_to_it);
    }
}

// Adds what came of the per-layer input, normed, to all streams but the first. A block for each token.
extern "C" __global__ void __launch_bounds__(1024) spread(T* rows, const T* added, const T* norm, int hidden, float eps) {
    const int64 start = (int64)blockIdx.x * hidden;
    T* streams = rows + 5 * start;
    float squares[1] = {};
#pragma unroll 2
    for (int i = threadIdx.x; i < hidden; i += blockDim.x)
        squares[0] += up(added[start + i]) * up(added[start + i]);
    block_sum(squares);
    const float scale = rms_scale(squares[0], hidden, eps);
#pragma unroll 2
    for (int i = threadIdx.x; i < hidden; i += blockDim.x) {
        const float x = up(down(up(added[start + i]) * scale * up(norm[i])));
        for (int s = 1; s < 4; s++) streams[s * hidden + i] = down(up(streams[s * hidden + i]) + x);
    }
}

// Rows of weights: what the numbers are that 16 bytes of them hold, and what a sum of products with those
// stands for.
struct Numbers {
    static const int HELD = 16 / sizeof(T);
    static const bool HAS_ZEROS = false;
    const T* weights;
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

// [TOKENS, num_inputs] times rows of weights, a warp for ROWS of them; where there are factors, what comes out
// goes through gelu and is multiplied by them.
template <int TOKENS, int ROWS, typename Weights>
__device__ __forceinline__ void multiply(
    const T* x, int stride, Weights weights, T* out, int num_outputs, const T* factors, int factor_stride) {
    const int HELD = Weights::HELD, READ = HELD < 8 ? HELD : 8, IN_16_BYTES = 16 / sizeof(T);
    const int lane = threadIdx.x % 32, first = (blockIdx.x * MULTIPLYING_WARPS + threadIdx.x / 32) * ROWS;
    if (first >= num_outputs) return;
    int outputs[ROWS];
    const uint4* rows[ROWS];
    float sums[ROWS][TOKENS] = {};
    for (int r = 0; r < ROWS; r++) {
        outputs[r] = min(first + r, num_outputs - 1);
        rows[r] = (const uint4*)weights.row(outputs[r]);
    }
    const int num_held = weights.num_inputs / HELD;
#pragma unroll 4
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
                    const Bytes some = bytes(__ldg((const uint4*)(x + (int64)t * stride + at * HELD + i + e)));
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
        for (int t = 0; t < TOKENS; t++) {
            float sum = warp_sum(sums[r][t]);
            if (lane || first + r >= num_outputs) continue;
            sum = weights.whole(sum, outputs[r]);
            if (factors) sum = gelu(up(down(sum))) * up(factors[(int64)t * factor_stride + outputs[r]]);
            out[(int64)t * num_outputs + outputs[r]] = down(sum);
        }
}

#define MULTIPLY(TOKENS, ROWS)                                                                                    \
    extern "C" __global__ void multiply_numbers_##TOKENS(                                                         \
        const T* x, int stride, const T* weights, const void*, int num_inputs, T* out, int num_outputs,           \
        const T* factors, int factor_stride) {                                                                    \
        multiply<TOKENS, ROWS>(                                                                                   \
            x, stride, Numbers{weights, num_inputs}, out, num_outputs, factors, factor_stride);                   \
    }                                                                                                             \
    extern "C" __global__ void multiply_int8_##TOKENS(                                                            \
        const T* x, int stride, const signed char* weights, const unsigned short* scales, int num_inputs, T* out, \
        int num_outputs, const T* factors, int factor_stride) {                                                   \
        multiply<TOKENS, ROWS>(                                                                                   \
            x, stride, Int8{weights, scales, num_inputs}, out, num_outputs, factors, factor_stride);              \
    }                                                                                                             \
    extern "C" __global__ void multiply_int4_##TOKENS(                                                            \
        const T* x, int stride, const unsigned char* weights, const unsigned short* scales, int num_inputs,       \
        T* out, int num_outputs, const T* factors, int factor_stride) {                                           \
        multiply<TOKENS, ROWS>(                                                                                   \
            x, stride, Int4{weights, scales, num_inputs}, out, num_outputs, factors, factor_stride);              \
    }

MULTIPLY(1, ROWS_OF_A_WARP)
MULTIPLY(2, ROWS_OF_A_WARP)
MULTIPLY(4, ROWS_OF_A_WARP)
MULTIPLY(8, ROWS_OF_A_WARP)
