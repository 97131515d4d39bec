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

// Of one new token's attention, keys are looked at in chunks: each warp has some of their scores, and each thread two
// numbers of some of their values.
const int KEYS_OF_A_WARP = 4, CHUNK = KEYS_OF_A_WARP * ATTENDING_WARPS;
const int PAIRS = LARGEST_HEAD / 2, KEYS_BESIDE = 32 * ATTENDING_WARPS / PAIRS, KEYS_OF_A_THREAD = CHUNK / KEYS_BESIDE;
const int SCORES = KEYS_OF_A_WARP * (GROUP > 4 ? 8 : GROUP > 2 ? 4 : GROUP);
const int PARTS_AT_ONCE = 8;

// As they are held: of numbers of two bytes, the halves of a register.
struct alignas(2 * sizeof(T)) Two {
    unsigned x[sizeof(T) / 2];
};
struct alignas(16) Eight {
    unsigned x[2 * sizeof(T)];
};
struct alignas(2 * sizeof(float)) Pair {
    float x[2];
};

template <int N>
__device__ __forceinline__ float held_number(const unsigned (&held)[N], int i) {
    if (sizeof(T) == sizeof(float)) return __uint_as_float(held[i]);
    return __uint_as_float(i % 2 ? held[i / 2] & 0xffff0000 : held[i / 2] << 16);
}

// Asks for what is in the cache from a key or value on, a head of each of the positions that follow.
__device__ __forceinline__ void prefetch_heads(const T* from, int num_positions, int step, int head_dim) {
    const int IN_A_LINE = 128 / sizeof(T), lines = (head_dim + IN_A_LINE - 1) / IN_A_LINE;
    for (int i = threadIdx.x; i < num_positions * lines; i += blockDim.x)
        prefetch((const char*)(from + i / lines * step + i % lines * IN_A_LINE));
}

// What one new token of every slot sees, having turned its heads, and put its key and value into the cache where
// the layer `owns` any: blocks for parts of its keys, for each key head, for each slot; those beyond the parts
// that its keys are worth do nothing. The last to end puts the parts together; `ended` is zero before and after.
extern "C" __global__ void __launch_bounds__(32 * ATTENDING_WARPS, 2) attend(
    const T* projected, int stride, const T* norm, int norm_stride, const T* cosines, const T* sines,
    int turn_stride, const int64* slots, const int64* positions, T* cache, int capacity, int owns, int window,
    float* parts, int* ended, T* seen, int num_kv_heads, int head_dim, float eps) {
    let_next_begin();
    const int part = blockIdx.x, kv_head = blockIdx.y, row = blockIdx.z;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    // Slots and positions were there before any kernel that overlaps began. Keys are asked for, and read once the one
    // ahead has ended.
    const int end = (int)positions[row] + 1;
    const int start = window && end > window ? end - window : 0;
    const int num_parts = min((int)gridDim.x, (end - start + KEYS_OF_A_PART - 1) / KEYS_OF_A_PART);
    const int share = (end - start + num_parts - 1) / num_parts;
    const int from = start + part * share, to = min(from + share, end);
    const int64 head = (int64)row * num_kv_heads + kv_head;
    const int step = 2 * num_kv_heads * head_dim;
    T* const keys = cache + slots[row] * capacity * step + kv_head * head_dim;
    const T* const values = keys + (int64)num_kv_heads * head_dim;
    if (part < num_parts) {
        prefetch_heads(keys + from * step, min(to - from, CHUNK), step, head_dim);
        prefetch_heads(values + from * step, min(to - from, CHUNK), step, head_dim);
    }
    await_previous();
    if (part >= num_parts) return;

    alignas(16) __shared__ T queries[GROUP * LARGEST_HEAD];
    __shared__ float scores[CHUNK * GROUP], highest[GROUP], total[GROUP], fades[GROUP];
    const bool writes = owns && from < end && to == end;
    for (int job = warp; job < GROUP + 2 * writes; job += ATTENDING_WARPS) {
        // Of the token's heads, first come all queries, then all keys, then all values.
        const int which = job < GROUP ? kv_head * GROUP + job : job * num_kv_heads + kv_head;
        const int64 at = (int64)row * turn_stride;
        T* turned = keys + (end - 1) * step + (job - GROUP) * num_kv_heads * head_dim;
        turn(
            projected + (int64)row * stride + which * head_dim, norm + which * norm_stride, cosines + at, sines + at,
            job <= GROUP, job < GROUP ? queries + job * head_dim : turned, head_dim, eps);
    }
    if (threadIdx.x < GROUP) highest[threadIdx.x] = MINUS_INFINITY, total[threadIdx.x] = 0.0f;
    __syncthreads();

    // What there is none of is not asked about, but read twice: it counts for nothing.
    const int mine = min(2 * (int)(threadIdx.x % PAIRS), head_dim - 2), beside = threadIdx.x / PAIRS;
    const int eighth = min(lane * 8, head_dim - 8);
    Pair sums[GROUP] = {};
    for (int first = from; first < to; first += CHUNK) {
        Eight key[KEYS_OF_A_WARP];
#pragma unroll
        for (int k = 0; k < KEYS_OF_A_WARP; k++)
            key[k] = *(const Eight*)(keys + min(first + warp * KEYS_OF_A_WARP + k, to - 1) * step + eighth);
        float its_scores[SCORES] = {};
#pragma unroll
        for (int g = 0; g < GROUP; g++) {
            float query[8] = {};
            if (lane * 8 < head_dim) eight(query, queries + g * head_dim + lane * 8);
#pragma unroll
            for (int k = 0; k < KEYS_OF_A_WARP; k++)
#pragma unroll
                for (int e = 0; e < 8; e++) its_scores[k * GROUP + g] += query[e] * held_number(key[k].x, e);
        }
        const float score = warp_sums(its_scores);
        const int which = lane * SCORES / 32, position = first + warp * KEYS_OF_A_WARP + which / GROUP;
        if (lane * SCORES % 32 == 0 && which < KEYS_OF_A_WARP * GROUP)
            scores[warp * KEYS_OF_A_WARP * GROUP + which] = position < to ? score : MINUS_INFINITY;
        // Not looked at before the weights are known: until then they come.
        Two value[KEYS_OF_A_THREAD];
#pragma unroll
        for (int k = 0; k < KEYS_OF_A_THREAD; k++)
            value[k] = *(const Two*)(values + min(first + k * KEYS_BESIDE + beside, to - 1) * step + mine);
        __syncthreads();

        for (int g = warp; g < GROUP; g += ATTENDING_WARPS) {
            float high = highest[g], sum = 0.0f;
            for (int k = lane; k < CHUNK; k += 32) high = fmaxf(high, scores[k * GROUP + g]);
            high = warp_max(high);
            for (int k = lane; k < CHUNK; k += 32) {
                const float weight = expf(scores[k * GROUP + g] - high);
                scores[k * GROUP + g] = weight, sum += weight;
            }
            sum = warp_sum(sum);
            if (lane == 0) {
                fades[g] = expf(highest[g] - high);
                highest[g] = high, total[g] = total[g] * fades[g] + sum;
            }
        }
        __syncthreads();
#pragma unroll
        for (int g = 0; g < GROUP; g++) sums[g].x[0] *= fades[g], sums[g].x[1] *= fades[g];
#pragma unroll
        for (int k = 0; k < KEYS_OF_A_THREAD; k++)
#pragma unroll
            for (int g = 0; g < GROUP; g++) {
                const float weight = scores[(k * KEYS_BESIDE + beside) * GROUP + g];
                sums[g].x[0] += weight * held_number(value[k].x, 0), sums[g].x[1] += weight * held_number(value[k].x, 1);
            }
        __syncthreads();
    }

    __shared__ Pair beside_each_other[KEYS_BESIDE][GROUP][PAIRS];
#pragma unroll
    for (int g = 0; g < GROUP; g++) beside_each_other[beside][g][threadIdx.x % PAIRS] = sums[g];
    __syncthreads();
    const int width = head_dim + 2;
    parts += head * gridDim.x * GROUP * width;
    seen += head * GROUP * head_dim;
    for (int i = threadIdx.x; i < GROUP * PAIRS; i += blockDim.x) {
        const int g = i / PAIRS, at = 2 * (i % PAIRS);
        if (at >= head_dim) continue;
        Pair sum = {};
#pragma unroll
        for (int b = 0; b < KEYS_BESIDE; b++)
            for (int e = 0; e < 2; e++) sum.x[e] += beside_each_other[b][g][i % PAIRS].x[e];
        if (num_parts == 1) {
            for (int e = 0; e < 2; e++) seen[g * head_dim + at + e] = down(sum.x[e] / total[g]);
            continue;
        }
        float* of_part = parts + (part * GROUP + g) * width;
        *(Pair*)(of_part + 2 + at) = sum;
        if (at == 0) *(Pair*)of_part = {highest[g], total[g]};
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
    for (int i = threadIdx.x; i < GROUP * PAIRS; i += blockDim.x) {
        const int g = i / PAIRS, at = 2 * (i % PAIRS);
        if (at >= head_dim) continue;
        Pair sum = {};
        float high = MINUS_INFINITY, all = 0.0f;
        for (int first = 0; first < num_parts; first += PARTS_AT_ONCE) {
            Pair its[PARTS_AT_ONCE] = {}, of_its[PARTS_AT_ONCE];
#pragma unroll
            for (int p = 0; p < PARTS_AT_ONCE; p++) {
                const float* of_part = parts + ((first + p) * GROUP + g) * width;
                of_its[p] = {MINUS_INFINITY, 0.0f};
                if (first + p < num_parts) of_its[p] = *(const Pair*)of_part, its[p] = *(const Pair*)(of_part + 2 + at);
            }
            float higher = high;
#pragma unroll
            for (int p = 0; p < PARTS_AT_ONCE; p++) higher = fmaxf(higher, of_its[p].x[0]);
            const float fade = expf(high - higher);
            high = higher, all *= fade, sum.x[0] *= fade, sum.x[1] *= fade;
#pragma unroll
            for (int p = 0; p < PARTS_AT_ONCE; p++) {
                const float weight = expf(of_its[p].x[0] - high);
                all += weight * of_its[p].x[1];
                for (int e = 0; e < 2; e++) sum.x[e] += weight * its[p].x[e];
            }
        }
        for (int e = 0; e < 2; e++) seen[g * head_dim + at + e] = down(sum.x[e] / all);
    }
}
