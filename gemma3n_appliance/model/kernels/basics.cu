// What a step of Gemma 3n's text model is made of beside its matrix products, each as one kernel, and the
// products with few tokens, which cost what their weights cost to read. Of one token alone, whatever leads to a
// product is computed by all of its blocks, which costs less than a kernel of its own.
//
// Compiled by NVRTC at start, for the numbers the model computes in: BFLOAT16 is 1 or 0, GROUP says how many
// query heads share a key head; the rest, how launches are cut up, is cuda_source.py's. Sums are in float32.

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

// A kernel that is launched to overlap may begin before the one ahead has ended, and must wait for it before it
// looks at anything but weights.
__device__ __forceinline__ void let_next_begin() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}

__device__ __forceinline__ void await_previous() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#elif !defined(__CUDA_ARCH__)
    emulated_wait();
#endif
}

__device__ __forceinline__ void prefetch(const char* from) {
#ifdef __CUDA_ARCH__
    asm volatile("prefetch.global.L2 [%0];" ::"l"(from));
#endif
}

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

// Sums each of N numbers over a warp, N a power of two up to 32; a lane gets the sum of number lane * N / 32.
template <int N, int HALF = N / 2, int OTHER = 16>
__device__ __forceinline__ float warp_sums(float (&x)[N]) {
    if constexpr (HALF > 0) {
        const bool has_upper = threadIdx.x & OTHER;
#pragma unroll
        for (int n = 0; n < HALF; n++) {
            const float given = has_upper ? x[n] : x[n + HALF];
            x[n] = (has_upper ? x[n + HALF] : x[n]) + __shfl_xor_sync(~0u, given, OTHER);
        }
        return warp_sums<N, HALF / 2, OTHER / 2>(x);
    }
#pragma unroll
    for (int other = OTHER; other; other /= 2) x[0] += __shfl_xor_sync(~0u, x[0], other);
    return x[0];
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

__device__ __forceinline__ float rms_scale(float squares, int size, float eps) {
    return rsqrtf(squares / size + eps);
}
