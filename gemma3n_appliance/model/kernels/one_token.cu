// From here on, of one token alone: products with what leads to them. As many blocks as the GPU runs at once take
// turns at the rows of weights, which are the warps' units; the first block writes what later kernels want of
// what all have computed. Beside them there is room for the blocks of the next kernel, which begin before these end.
#define TOKEN_KERNEL extern "C" __global__ void __launch_bounds__(TOKEN_THREADS, 2 * TOKEN_BLOCKS)

__device__ __forceinline__ int first_unit() { return threadIdx.x / 32 * gridDim.x + blockIdx.x; }
__device__ __forceinline__ int units_at_once() { return blockDim.x / 32 * gridDim.x; }

template <typename Weights>
__device__ __forceinline__ float product(const Weights& weights, int output, const T* x) {
    const int outputs[1] = {output};
    float sums[1][1] = {};
    products(weights, outputs, x, 0, sums);
    return sums[0][0];
}

// Asks for what the first norms, routers and the like of a kernel will read, a warp for each.
template <typename... Vectors>
__device__ __forceinline__ void prefetch_vectors(int size, Vectors... vectors) {
    const int IN_A_LINE = 128 / sizeof(T), warp = threadIdx.x / 32;
    const T* its = nullptr;
    int number = 0;
    ((its = warp == number++ ? vectors : its), ...);
    for (int i = threadIdx.x % 32 * IN_A_LINE; its && i < size; i += 32 * IN_A_LINE) prefetch((const char*)(its + i));
}

template <typename Weights>
__device__ __forceinline__ void begin(const Weights& weights, int num_outputs) {
    let_next_begin();
    if (first_unit() < num_outputs) prefetch_row(weights, first_unit());
}

__device__ __forceinline__ void copy(T* to, const T* from, int size) {
    for (int i = 4 * threadIdx.x; i < size; i += 4 * blockDim.x) *(Four*)(to + i) = four(from + i);
}

template <typename Weights>
__device__ __forceinline__ void multiply_units(const Weights& weights, const T* x, T* out, int num_outputs) {
    for (int unit = first_unit(); unit < num_outputs; unit += units_at_once()) {
        const float sum = product(weights, unit, x);
        if (threadIdx.x % 32 == 0) out[unit] = down(sum);
    }
}

// AltUp's prediction, and what is projected from the first stream: queries, keys, values, and LAuReL's narrow half.
template <typename Weights>
__device__ __forceinline__ void token_inputs(
    const T* old, const T* spread_norm, const T* router, const T* router_norm, const T* prediction, const T* norm,
    const Weights& weights, T* rows, T* looked_at, T* out, int num_outputs, int hidden, float eps) {
    extern __shared__ uint4 shared[];
    T* x = (T*)shared;
    begin(weights, num_outputs);
    prefetch_vectors(
        hidden, router, router + hidden, router + 2 * hidden, router + 3 * hidden, router_norm, norm, spread_norm);
    await_previous();
    const bool writes = blockIdx.x == 0;
    predicted(old, spread_norm, router, router_norm, prediction, norm, writes ? rows : nullptr, x, hidden, eps);
    if (writes) copy(looked_at, x, hidden);
    __syncthreads();
    multiply_units(weights, x, out, num_outputs);
}

#define TOKEN_INPUTS(PACKING, HELD, WEIGHTS)                                                                       \
    TOKEN_KERNEL token_inputs_##PACKING(                                                                           \
        const T* old, const T* spread_norm, const T* router, const T* router_norm, const T* prediction,            \
        const T* norm, const HELD* weights, const unsigned short* scales, T* rows, T* looked_at, T* out,           \
        int num_outputs, int hidden, float eps) {                                                                  \
        token_inputs(                                                                                              \
            old, spread_norm, router, router_norm, prediction, norm, WEIGHTS{weights, scales, hidden}, rows,       \
            looked_at, out, num_outputs, hidden, eps);                                                             \
    }
FOR_EACH_PACKING(TOKEN_INPUTS)

// What attention saw and LAuReL's narrow half, both made as wide as a stream.
template <typename Weights, typename Fine>
__device__ __forceinline__ void token_outputs(
    const T* seen, const Weights& weights, T* attended, const T* narrow, const Fine& laurel, T* widened, int hidden) {
    extern __shared__ uint4 shared[];
    T *x = (T*)shared, *y = x + weights.num_inputs;
    begin(weights, hidden);
    await_previous();
    copy(x, seen, weights.num_inputs);
    for (int i = threadIdx.x; i < laurel.num_inputs; i += blockDim.x) y[i] = narrow[i];
    __syncthreads();
    multiply_units(laurel, y, widened, hidden);
    multiply_units(weights, x, attended, hidden);
}

#define TOKEN_OUTPUTS(PACKING, HELD, WEIGHTS, FINE_HELD, FINE)                                                    \
    TOKEN_KERNEL token_outputs_##PACKING(                                                                         \
        const T* seen, const HELD* weights, const unsigned short* scales, int num_inputs, T* attended,            \
        const T* narrow, const FINE_HELD* laurel, const unsigned short* laurel_scales, int rank, T* widened,      \
        int hidden) {                                                                                             \
        token_outputs(                                                                                            \
            seen, WEIGHTS{weights, scales, num_inputs}, attended, narrow, FINE{laurel, laurel_scales, rank},      \
            widened, hidden);                                                                                     \
    }
TOKEN_OUTPUTS(numbers, T, Numbers, T, Numbers)
TOKEN_OUTPUTS(int8, signed char, Int8, signed char, Int8)
TOKEN_OUTPUTS(int4, unsigned char, Int4, signed char, Int8)

// What both found, joined, and what the feed-forward network's first weights make of it: as it is, or, of gates
// and what they gate, what goes down.
template <bool IS_GATED, typename Weights>
__device__ __forceinline__ void token_feed(
    const T* attended, const T* laurel, const T* active, const T* looked_at, const T* attention_norm,
    const T* laurel_norm, const T* next_norm, const Weights& weights, T* gated, T* next, T* out, int num_outputs,
    int hidden, float eps) {
    extern __shared__ uint4 shared[];
    T* x = (T*)shared;
    begin(weights, num_outputs);
    if (IS_GATED && first_unit() < num_outputs) prefetch_row(weights, first_unit() + num_outputs);
    prefetch_vectors(hidden, attention_norm, laurel_norm, next_norm);
    await_previous();
    const bool writes = blockIdx.x == 0;
    joined(
        attended, laurel, active, looked_at, attention_norm, laurel_norm, next_norm, writes ? gated : nullptr, x,
        hidden, eps);
    if (writes && next) copy(next, x, hidden);
    __syncthreads();
    if (!IS_GATED) {
        multiply_units(weights, x, out, num_outputs);
        return;
    }
    for (int unit = first_unit(); unit < num_outputs; unit += units_at_once()) {
        const int outputs[2] = {unit, unit + num_outputs};
        float sums[2][1] = {};
        products(weights, outputs, x, 0, sums);
        if (threadIdx.x % 32 == 0) out[unit] = down(gelu(up(down(sums[0][0]))) * up(down(sums[1][0])));
    }
}

#define TOKEN_FEED(NAME, IS_GATED, HELD, WEIGHTS)                                                                  \
    TOKEN_KERNEL NAME(                                                                                             \
        const T* attended, const T* laurel, const T* active, const T* looked_at, const T* attention_norm,          \
        const T* laurel_norm, const T* next_norm, const HELD* weights, const unsigned short* scales, T* gated,     \
        T* next, T* out, int num_outputs, int hidden, float eps) {                                                 \
        token_feed<IS_GATED>(                                                                                      \
            attended, laurel, active, looked_at, attention_norm, laurel_norm, next_norm,                           \
            WEIGHTS{weights, scales, hidden}, gated, next, out, num_outputs, hidden, eps);                         \
    }
#define TOKEN_GATED(PACKING, HELD, WEIGHTS) TOKEN_FEED(token_gated_##PACKING, true, HELD, WEIGHTS)
#define TOKEN_GATES(PACKING, HELD, WEIGHTS) TOKEN_FEED(token_gates_##PACKING, false, HELD, WEIGHTS)
FOR_EACH_PACKING(TOKEN_GATED)
FOR_EACH_PACKING(TOKEN_GATES)

// What goes down of the neurons that do not rest; of those that do, no weight is read.
TOKEN_KERNEL token_live(const T* x, const T* gates, const T* weights, T* out, int size, int hidden, float cutoff) {
    let_next_begin();
    await_previous();
    const float rest = threshold(gates, size, cutoff);
    const Numbers ups{weights, nullptr, hidden};
    for (int unit = first_unit(); unit < size; unit += units_at_once()) {
        const float excess = up(gates[unit]) - rest;
        float made = 0.0f;
        if (!(excess <= 0.0f)) made = gelu(excess) * up(down(product(ups, unit, x)));
        if (threadIdx.x % 32 == 0) out[unit] = down(made);
    }
}

// What they give, of weights that lie [neurons, hidden]. Blocks for columns, and for parts of the neurons; the last
// to end adds up the parts. `ended` is zero before and after.
extern "C" __global__ void __launch_bounds__(1024) token_down_live(
    const T* x, const T* weights, T* out, float* parts, int* ended, int size, int hidden) {
    const int IN_16_BYTES = 16 / sizeof(T), COLUMNS = 32 * IN_16_BYTES, WARPS = 32;
    __shared__ int live[NEURONS_OF_A_PART], starts[WARPS + 1];
    __shared__ float of_warps[WARPS][COLUMNS + 1];
    __shared__ bool is_last;
    let_next_begin();
    await_previous();
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int first = blockIdx.y * NEURONS_OF_A_PART, column = blockIdx.x * COLUMNS + lane * IN_16_BYTES;
    // Each warp looks at 32 neurons, and lists those that live, in order.
    const int neuron = first + threadIdx.x;
    const bool lives = neuron < size && up(x[neuron]) != 0.0f;
    const unsigned of_warp = __ballot_sync(~0u, lives);
    if (lane == 0) starts[warp + 1] = __popc(of_warp);
    __syncthreads();
    if (threadIdx.x == 0) {
        starts[0] = 0;
        for (int w = 0; w < WARPS; w++) starts[w + 1] += starts[w];
    }
    __syncthreads();
    if (lives) live[starts[warp] + __popc(of_warp & ((1u << lane) - 1))] = neuron;
    __syncthreads();
    float sums[IN_16_BYTES] = {};
    if (column < hidden) {
#pragma unroll 4
        for (int n = warp; n < starts[WARPS]; n += WARPS) {
            const Bytes held = bytes(__ldcs((const uint4*)(weights + (int64)live[n] * hidden + column)));
            const float factor = up(x[live[n]]);
#pragma unroll
            for (int e = 0; e < IN_16_BYTES; e++) sums[e] += factor * up(((const T*)&held)[e]);
        }
    }
    for (int e = 0; e < IN_16_BYTES; e++) of_warps[warp][lane * IN_16_BYTES + e] = sums[e];
    __syncthreads();
    const int mine = blockIdx.x * COLUMNS + threadIdx.x;
    const bool has_column = threadIdx.x < COLUMNS && mine < hidden;
    float sum = 0.0f;
    if (has_column) {
        for (int w = 0; w < WARPS; w++) sum += of_warps[w][threadIdx.x];
        parts[(int64)blockIdx.y * hidden + mine] = sum;
    }
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        is_last = atomicAdd(ended + blockIdx.x, 1) == gridDim.y - 1;
        if (is_last) ended[blockIdx.x] = 0;
    }
    __syncthreads();
    if (!is_last || !has_column) return;
    __threadfence();
    sum = 0.0f;
    for (int p = 0; p < gridDim.y; p++) sum += __ldcg(parts + (int64)p * hidden + mine);
    out[mine] = down(sum);
}

// AltUp's correction, and what the first stream lets through of the layer's own input.
template <typename Weights>
__device__ __forceinline__ void token_chosen(
    const T* old, const T* gated, const T* fed, const T* norm, const T* router, const T* router_norm,
    const T* correction, const Weights& weights, const T* factors, T* rows, T* out, int num_outputs, int hidden,
    float eps) {
    extern __shared__ uint4 shared[];
    T* x = (T*)shared;
    begin(weights, num_outputs);
    prefetch_vectors(hidden, router, router + hidden, router + 2 * hidden, router + 3 * hidden, router_norm, norm);
    await_previous();
    corrected(
        old, gated, fed, norm, router, router_norm, correction, blockIdx.x == 0 ? rows : nullptr, x, hidden, eps);
    __syncthreads();
    for (int unit = first_unit(); unit < num_outputs; unit += units_at_once()) {
        const float sum = product(weights, unit, x);
        if (threadIdx.x % 32 == 0) out[unit] = down(gelu(up(down(sum))) * up(factors[unit]));
    }
}

#define TOKEN_CHOSEN(PACKING, HELD, WEIGHTS)                                                                       \
    TOKEN_KERNEL token_chosen_##PACKING(                                                                           \
        const T* old, const T* gated, const T* fed, const T* norm, const T* router, const T* router_norm,          \
        const T* correction, const HELD* weights, const unsigned short* scales, const T* factors, T* rows, T* out, \
        int num_outputs, int hidden, float eps) {                                                                  \
        token_chosen(                                                                                              \
            old, gated, fed, norm, router, router_norm, correction, WEIGHTS{weights, scales, hidden}, factors,     \
            rows, out, num_outputs, hidden, eps);                                                                  \
    }
FOR_EACH_PACKING(TOKEN_CHOSEN)
