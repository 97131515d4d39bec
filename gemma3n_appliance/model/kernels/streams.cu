// What a layer does to a token's streams beside its matrix products. Rows of streams are five to a token, see
// layer.py.

__device__ __forceinline__ void add_squares(float& sum, Four x) {
#pragma unroll
    for (int e = 0; e < 4; e++) sum += up(x.x[e]) * up(x.x[e]);
}

__device__ __forceinline__ Four normed(Four x, float scale, Four norm) {
    Four made;
#pragma unroll
    for (int e = 0; e < 4; e++) made.x[e] = down(up(x.x[e]) * scale * up(norm.x[e]));
    return made;
}

__device__ __forceinline__ Four sum_of(Four x, Four y) {
    Four made;
#pragma unroll
    for (int e = 0; e < 4; e++) made.x[e] = down(up(x.x[e]) + up(y.x[e]));
    return made;
}

// What follows is of one token's vectors, of which each thread of a block has four numbers, from `mine()` on; all
// that is to be read is asked for first, for waiting is what takes the time.
__device__ __forceinline__ int mine() { return 4 * threadIdx.x; }
__device__ __forceinline__ Four four_of(const T* from, int hidden) { return mine() < hidden ? four(from + mine()) : Four{}; }

// AltUp's router, of a vector: adds to squares, and to the four dots.
template <int N>
__device__ __forceinline__ void route(float (&sums)[N], Four x, const T* router, const T* router_norm, int hidden) {
    const Four norm = four_of(router_norm, hidden);
    add_squares(sums[0], x);
#pragma unroll
    for (int n = 0; n < 4; n++) {
        const Four weight = four_of(router + n * hidden, hidden);
#pragma unroll
        for (int e = 0; e < 4; e++) sums[1 + n] += up(x.x[e]) * up(norm.x[e]) * up(weight.x[e]);
    }
}

// AltUp's prediction of a token: its streams, mixed, from `old` to `rows`, which may be the same or none, and
// the first of them, normed, to `x`. Where there is a `spread_norm`, what the layer before made of its per-layer
// input is still in the fifth row of `old`, and is added to all streams but the first.
__device__ __forceinline__ void predicted(
    const T* old, const T* spread_norm, const T* router, const T* router_norm, const T* prediction, const T* norm,
    T* rows, T* x, int hidden, float eps) {
    __shared__ float mix[4][4];
    const int to = threadIdx.x / 4, from = threadIdx.x % 4;
    float coefficients[4] = {}, sums[6] = {};
    Four before[4], made[4], more = {}, of_more = {};
#pragma unroll
    for (int s = 0; s < 4; s++) before[s] = four_of(old + s * hidden, hidden);
    if (spread_norm) more = four_of(old + 4 * hidden, hidden), of_more = four_of(spread_norm, hidden);
    const Four of_first = four_of(norm, hidden);
    if (threadIdx.x < 16)
        for (int n = 0; n < 4; n++) coefficients[n] = up(prediction[(to * 5 + from) * 4 + n]);
    route(sums, before[0], router, router_norm, hidden);
    add_squares(sums[5], more);
    block_sum(sums);
    const float scale = rms_scale(sums[0], hidden, eps);
    if (threadIdx.x < 16) {
        float weight = 0.0f;
        for (int n = 0; n < 4; n++) weight += coefficients[n] * tanhf(sums[1 + n] * scale);
        mix[to][from] = weight;
    }
    if (spread_norm) {
        more = normed(more, rms_scale(sums[5], hidden, eps), of_more);
        for (int s = 1; s < 4; s++) before[s] = sum_of(before[s], more);
    }
    __syncthreads();
    float squares[1] = {};
#pragma unroll
    for (int to = 0; to < 4; to++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            float sum = up(before[to].x[e]);
#pragma unroll
            for (int from = 0; from < 4; from++) sum += mix[to][from] * up(before[from].x[e]);
            made[to].x[e] = down(sum);
        }
    add_squares(squares[0], made[0]);
    block_sum(squares);
    if (mine() >= hidden) return;
    *(Four*)(x + mine()) = normed(made[0], rms_scale(squares[0], hidden, eps), of_first);
    if (rows)
        for (int s = 0; s < 4; s++) *(Four*)(rows + s * hidden + mine()) = made[s];
}

// A block for each token, whose streams stay in their place.
extern "C" __global__ void __launch_bounds__(1024) predict(
    T* rows, const T* router, const T* router_norm, const T* prediction, const T* norm, T* normed, int hidden,
    float eps) {
    T* streams = rows + (int64)blockIdx.x * 5 * hidden;
    T* x = normed + (int64)blockIdx.x * hidden;
    predicted(streams, nullptr, router, router_norm, prediction, norm, streams, x, hidden, eps);
}

// What attention and LAuReL found of a token, normed and added to what they looked at, to `gated`, if there is
// any, and the same, normed for the feed-forward network, to `x`.
__device__ __forceinline__ void joined(
    const T* attended, const T* laurel, const T* active, const T* looked_at, const T* attention_norm,
    const T* laurel_norm, const T* next_norm, T* gated, T* x, int hidden, float eps) {
    const Four seen = four_of(attended, hidden), of_seen = four_of(attention_norm, hidden);
    const Four found = four_of(laurel, hidden), of_found = four_of(laurel_norm, hidden);
    const Four first = four_of(active, hidden), second = four_of(looked_at, hidden);
    const Four of_next = four_of(next_norm, hidden);
    float squares[2] = {}, sum[1] = {};
    add_squares(squares[0], seen), add_squares(squares[1], found);
    block_sum(squares);
    const float scale_of_seen = rms_scale(squares[0], hidden, eps), scale_of_found = rms_scale(squares[1], hidden, eps);
    Four made;
#pragma unroll
    for (int e = 0; e < 4; e++)
        made.x[e] = down(
            up(seen.x[e]) * scale_of_seen * up(of_seen.x[e]) + up(found.x[e]) * scale_of_found * up(of_found.x[e]) +
            HALF_POWER * (up(first.x[e]) + up(second.x[e])));
    add_squares(sum[0], made);
    block_sum(sum);
    if (mine() >= hidden) return;
    *(Four*)(x + mine()) = normed(made, rms_scale(sum[0], hidden, eps), of_next);
    if (gated) *(Four*)(gated + mine()) = made;
}

// A block for each token.
extern "C" __global__ void __launch_bounds__(1024) join(
    const T* attended, const T* laurel, const T* rows, const T* looked_at, const T* attention_norm,
    const T* laurel_norm, const T* next_norm, T* gated, T* next, int hidden, float eps) {
    const int64 start = (int64)blockIdx.x * hidden;
    joined(
        attended + start, laurel + start, rows + 5 * start, looked_at + start, attention_norm, laurel_norm, next_norm,
        gated + start, next + start, hidden, eps);
}

// AltUp's correction of a token: gives every stream of `old` its share of what the layer made of the first, to
// `rows`, which may be the same. The first of them goes to `x`. Either may be none.
__device__ __forceinline__ void corrected(
    const T* old, const T* gated, const T* fed, const T* norm, const T* router, const T* router_norm,
    const T* correction, T* rows, T* x, int hidden, float eps) {
    __shared__ float shares[4];
    float coefficients[4] = {}, squares[1] = {}, sums[5] = {};
    const Four more = four_of(fed, hidden), of_more = four_of(norm, hidden), before = four_of(gated, hidden);
    Four streams[4];
#pragma unroll
    for (int s = 0; s < 4; s++) streams[s] = four_of(old + s * hidden, hidden);
    if (threadIdx.x < 4)
        for (int n = 0; n < 4; n++) coefficients[n] = up(correction[(threadIdx.x * 5 + 4) * 4 + n]);
    add_squares(squares[0], more);
    block_sum(squares);
    const Four made = sum_of(before, normed(more, rms_scale(squares[0], hidden, eps), of_more));
    route(sums, made, router, router_norm, hidden);
    block_sum(sums);
    const float scale = rms_scale(sums[0], hidden, eps);
    if (threadIdx.x < 4) {
        float share = 1.0f;
        for (int n = 0; n < 4; n++) share += coefficients[n] * tanhf(sums[1 + n] * scale);
        shares[threadIdx.x] = share;
    }
    __syncthreads();
    if (mine() >= hidden) return;
    const Four active = streams[0];
#pragma unroll
    for (int s = 0; s < 4; s++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            streams[s].x[e] = down(up(streams[s].x[e]) + shares[s] * (up(made.x[e]) - up(active.x[e])));
    if (x) *(Four*)(x + mine()) = streams[0];
    if (rows)
        for (int s = 0; s < 4; s++) *(Four*)(rows + s * hidden + mine()) = streams[s];
}

// A block for each token, whose streams stay in their place.
extern "C" __global__ void __launch_bounds__(1024) correct(
    T* rows, const T* gated, const T* fed, const T* norm, const T* router, const T* router_norm,
    const T* correction, int hidden, float eps) {
    const int64 start = (int64)blockIdx.x * hidden;
    T* streams = rows + 5 * start;
    corrected(
        streams, gated + start, fed + start, norm, router, router_norm, correction, streams, nullptr, hidden, eps);
}

// Adds what came of the per-layer input, normed, to all streams but the first. A block for each token.
extern "C" __global__ void __launch_bounds__(1024) spread(T* rows, const T* added, int stride, const T* norm, int hidden, float eps) {
    T* streams = rows + (int64)blockIdx.x * 5 * hidden;
    added += (int64)blockIdx.x * stride;
    const Four more = four_of(added, hidden), of_more = four_of(norm, hidden);
    float squares[1] = {};
    add_squares(squares[0], more);
    block_sum(squares);
    if (mine() >= hidden) return;
    for (int s = 1; s < 4; s++) {
        T* stream = streams + s * hidden + mine();
        *(Four*)stream = sum_of(four(stream), normed(more, rms_scale(squares[0], hidden, eps), of_more));
    }
}

// How much to lengthen each of three vectors to be as long as the first, given all their squares.
__device__ __forceinline__ void lengthened(float (&scales)[3], const float (&squares)[4], float smallest) {
#pragma unroll
    for (int s = 0; s < 3; s++) scales[s] = sqrtf(squares[0]) / fmaxf(sqrtf(squares[1 + s]), smallest);
}

// The streams of a token as they begin: its embedding, and three projections, made as long. The fifth row is not
// read before it is written. A block for each token.
extern "C" __global__ void __launch_bounds__(1024) begin_streams(
    const T* embedded, const T* projected, T* rows, float smallest, int hidden, float eps) {
    const T* others = projected + (int64)blockIdx.x * 3 * hidden;
    T* streams = rows + (int64)blockIdx.x * 5 * hidden;
    Four its[4] = {four_of(embedded + (int64)blockIdx.x * hidden, hidden)};
    float squares[4] = {}, scales[3];
#pragma unroll
    for (int s = 0; s < 3; s++) its[1 + s] = four_of(others + s * hidden, hidden);
#pragma unroll
    for (int s = 0; s < 4; s++) add_squares(squares[s], its[s]);
    block_sum(squares);
    lengthened(scales, squares, smallest);
    if (mine() >= hidden) return;
    *(Four*)(streams + mine()) = its[0];
#pragma unroll
    for (int s = 0; s < 3; s++) {
        for (int e = 0; e < 4; e++) its[1 + s].x[e] = down(up(its[1 + s].x[e]) * scales[s]);
        *(Four*)(streams + (1 + s) * hidden + mine()) = its[1 + s];
    }
}

// What they end as: the mean of the first and of what the others were projected to, [3, tokens, hidden], made as
// long, and normed. A block for each token.
extern "C" __global__ void __launch_bounds__(1024) end_streams(
    const T* rows, const T* others, const T* norm, T* out, float smallest, int hidden, float eps) {
    const Four of_mean = four_of(norm, hidden);
    Four its[4] = {four_of(rows + (int64)blockIdx.x * 5 * hidden, hidden)}, mean = {};
    float squares[4] = {}, scales[3], of_means[1] = {};
#pragma unroll
    for (int s = 0; s < 3; s++) its[1 + s] = four_of(others + ((int64)s * gridDim.x + blockIdx.x) * hidden, hidden);
#pragma unroll
    for (int s = 0; s < 4; s++) add_squares(squares[s], its[s]);
    block_sum(squares);
    lengthened(scales, squares, smallest);
#pragma unroll
    for (int e = 0; e < 4; e++) {
        float sum = up(its[0].x[e]);
        for (int s = 0; s < 3; s++) sum += up(its[1 + s].x[e]) * scales[s];
        mean.x[e] = down(sum / 4.0f);
    }
    add_squares(of_means[0], mean);
    block_sum(of_means);
    if (mine() < hidden)
        *(Four*)(out + (int64)blockIdx.x * hidden + mine()) = normed(mean, rms_scale(of_means[0], hidden, eps), of_mean);
}
