__device__ __forceinline__ void eight(float (&to)[8], const T* from) {
    const Four low = four(from), high = four(from + 4);
#pragma unroll
    for (int e = 0; e < 4; e++) to[e] = up(low.x[e]), to[4 + e] = up(high.x[e]);
}

// Norms a head, and, of queries and keys, turns it by its position. For a warp, each lane of which has eight
// numbers; head_dim is a multiple of 16, and LARGEST_HEAD, 256, at most.
__device__ __forceinline__ void turn(
    const T* from, const T* norm, const T* cosines, const T* sines, bool turns, T* to, int head_dim, float eps) {
    const int lane = threadIdx.x % 32, half = head_dim / 16, at = lane * 8;
    const bool has_numbers = at < head_dim;
    float x[8] = {}, weight[8] = {}, cosine[8] = {}, sine[8] = {};
    if (has_numbers) eight(x, from + at), eight(weight, norm + at);
    if (has_numbers && turns) eight(cosine, cosines + at), eight(sine, sines + at);
    float squares = 0.0f;
#pragma unroll
    for (int e = 0; e < 8; e++) squares += x[e] * x[e];
    const float scale = rms_scale(warp_sum(squares), head_dim, eps);
    const int other = (lane < half ? lane + half : lane - half) & 31;
    Four made[2];
#pragma unroll
    for (int e = 0; e < 8; e++) {
        x[e] *= scale * weight[e];
        const float y = __shfl_sync(~0u, x[e], other);
        made[e / 4].x[e % 4] = down(turns ? x[e] * cosine[e] + y * sine[e] : x[e]);
    }
    if (has_numbers) *(Four*)(to + at) = made[0], *(Four*)(to + at + 4) = made[1];
}

// Puts the queries of a prompt side by side, keys and values into the cache, all turned. A block for each token,
// a warp for each head.
extern "C" __global__ void __launch_bounds__(1024) rotate(
    const T* projected, int stride, const T* norm, int norm_stride, const T* cosines, const T* sines, int turn_stride,
    const int64* slots, const int64* positions, int num_new, T* queries, T* cache, int capacity, int num_heads,
    int num_kv_heads, int head_dim, float eps) {
    const int token = blockIdx.x, head = threadIdx.x / 32;
    const int64 at = (int64)token * turn_stride;
    T* to = queries + ((int64)token * num_heads + head) * head_dim;
    if (head >= num_heads)
        to = cache + ((slots[token / num_new] * capacity + positions[token]) * 2 * num_kv_heads + head - num_heads) *
                         head_dim;
    turn(
        projected + (int64)token * stride + head * head_dim, norm + head * norm_stride, cosines + at, sines + at,
        head < num_heads + num_kv_heads, to, head_dim, eps);
}

const int KEYS_AT_ONCE = 4;

// What one new token of every slot sees, having turned its heads, and put its key and value into the cache where
// the layer `owns` any: blocks for parts of its keys, for each key head, for each slot; those beyond the parts
// that its keys are worth do nothing. The last to end puts the parts together; `ended` is zero before and after.
extern "C" __global__ void attend(
    const T* projected, int stride, const T* norm, int norm_stride, const T* cosines, const T* sines,
    int turn_stride, const int64* slots, const int64* positions, T* cache, int capacity, int owns, int window,
    float* parts, int* ended, T* seen, int num_kv_heads, int head_dim, float eps) {
    let_next_begin();
    await_previous();
    const int part = blockIdx.x, kv_head = blockIdx.y, row = blockIdx.z;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const bool has_numbers = lane * 8 < head_dim;
    const int end = (int)positions[row] + 1;
    const int start = window && end > window ? end - window : 0;
    const int num_parts = min((int)gridDim.x, (end - start + KEYS_OF_A_PART - 1) / KEYS_OF_A_PART);
    if (part >= num_parts) return;
    const int share = (end - start + num_parts - 1) / num_parts;
    const int from = start + part * share, to = min(from + share, end);
    const int64 head = (int64)row * num_kv_heads + kv_head;
    const int64 step = (int64)2 * num_kv_heads * head_dim;
    T* const its_keys = cache + slots[row] * capacity * step + kv_head * head_dim;
    const T* keys = its_keys + lane * 8;
    const T* values = keys + (int64)num_kv_heads * head_dim;

    alignas(16) __shared__ T queries[GROUP * LARGEST_HEAD];
    const bool writes = owns && from < end && to == end;
    for (int job = warp; job < GROUP + 2 * writes; job += ATTENDING_WARPS) {
        // Of the token's heads, first come all queries, then all keys, then all values.
        const int which = job < GROUP ? kv_head * GROUP + job : job * num_kv_heads + kv_head;
        const int64 at = (int64)row * turn_stride;
        T* turned = its_keys + (end - 1) * step + (job - GROUP) * num_kv_heads * head_dim;
        turn(
            projected + (int64)row * stride + which * head_dim, norm + which * norm_stride, cosines + at, sines + at,
            job <= GROUP, job < GROUP ? queries + job * head_dim : turned, head_dim, eps);
    }
    __syncthreads();

    float query[GROUP][8] = {}, sum[GROUP][8] = {}, highest[GROUP], total[GROUP];
    for (int g = 0; g < GROUP; g++) {
        if (has_numbers) eight(query[g], queries + g * head_dim + lane * 8);
        highest[g] = MINUS_INFINITY, total[g] = 0.0f;
    }
    for (int first = from + warp * KEYS_AT_ONCE; first < to; first += ATTENDING_WARPS * KEYS_AT_ONCE) {
        float key[KEYS_AT_ONCE][8] = {}, value[KEYS_AT_ONCE][8] = {}, scores[KEYS_AT_ONCE][GROUP] = {};
#pragma unroll
        for (int k = 0; k < KEYS_AT_ONCE; k++)
            if (has_numbers && first + k < to) {
                eight(key[k], keys + (first + k) * step);
                eight(value[k], values + (first + k) * step);
            }
#pragma unroll
        for (int k = 0; k < KEYS_AT_ONCE; k++)
#pragma unroll
            for (int g = 0; g < GROUP; g++) {
                for (int e = 0; e < 8; e++) scores[k][g] += query[g][e] * key[k][e];
                scores[k][g] = warp_sum(scores[k][g]);
            }
#pragma unroll
        for (int g = 0; g < GROUP; g++) {
            float high = highest[g];
#pragma unroll
            for (int k = 0; k < KEYS_AT_ONCE; k++)
                if (first + k < to) high = fmaxf(high, scores[k][g]);
            const float fades = expf(highest[g] - high);
            highest[g] = high, total[g] *= fades;
            for (int e = 0; e < 8; e++) sum[g][e] *= fades;
#pragma unroll
            for (int k = 0; k < KEYS_AT_ONCE; k++) {
                const float weight = first + k < to ? expf(scores[k][g] - high) : 0.0f;
                total[g] += weight;
                for (int e = 0; e < 8; e++) sum[g][e] += weight * value[k][e];
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
    parts += head * gridDim.x * GROUP * width;
    for (int i = threadIdx.x; i < GROUP * head_dim; i += blockDim.x) {
        const int g = i / head_dim;
        float high = MINUS_INFINITY, all = 0.0f, x = 0.0f;
        for (int w = 0; w < ATTENDING_WARPS; w++) high = fmaxf(high, highest_of[w][g]);
        for (int w = 0; w < ATTENDING_WARPS; w++) {
            if (total_of[w][g] == 0.0f) continue;  // no key; NaN goes on
            const float fades = expf(highest_of[w][g] - high);
            all += total_of[w][g] * fades, x += of_warps[w * GROUP * head_dim + i] * fades;
        }
        if (num_parts == 1) {
            seen[head * GROUP * head_dim + i] = down(x / all);
            continue;
        }
        float* mine = parts + (part * GROUP + g) * width;
        mine[2 + i % head_dim] = x;
        if (i % head_dim == 0) mine[0] = high, mine[1] = all;
    }

    if (num_parts == 1) return;
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
