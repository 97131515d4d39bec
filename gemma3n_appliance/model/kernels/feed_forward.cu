__device__ __forceinline__ float gelu(float x) {
    return 0.5f * x * (1.0f + tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x)));
}

// Where a layer is sparse: how excited a neuron must be not to rest, for all threads of a block.
__device__ __forceinline__ float threshold(const T* gates, int size, float cutoff) {
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
    return mean + cutoff * sqrtf(sums[1] / size);
}

// Gate and up → what goes down; with a cutoff, all but the most excited neurons rest.
// Blocks for each token: one where there is a cutoff, else as many as there are parts.
extern "C" __global__ void __launch_bounds__(1024) activate(const T* gate_and_up, T* out, int size, float cutoff, int is_cut) {
    const T* gates = gate_and_up + (int64)blockIdx.x * 2 * size;
    const T* ups = gates + size;
    out += (int64)blockIdx.x * size;
    const float rest = is_cut ? threshold(gates, size, cutoff) : 0.0f;
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
