/* XOR with the masking key (RFC 6455 section 5.3). Vectors of 16 bytes in the compiler's own notation (GCC, Clang):
 * SSE2 on x86-64, NEON on arm64, pairs of words elsewhere. Loads and stores go through memcpy: the data has any
 * alignment. */
#ifndef BROKER_NATIVE_MASK_H
#define BROKER_NATIVE_MASK_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define BROKER_MASK_INLINE static inline __attribute__((always_inline))

typedef uint64_t broker_lane16 __attribute__((vector_size(16)));

BROKER_MASK_INLINE broker_lane16 broker_load16(const uint8_t *from)
{
    broker_lane16 lane;
    memcpy(&lane, from, 16);
    return lane;
}

/* XORs data[:size] with the key, which starts at its byte `phase`. Returns non-zero if a byte of the result is >= 0x80,
 * so that ASCII text costs one pass over memory. */
BROKER_MASK_INLINE int broker_unmask(uint8_t *data, size_t size, const uint8_t *key, unsigned phase)
{
    uint8_t turned[4];
    for (unsigned i = 0; i < 4; i++)
        turned[i] = key[(phase + i) & 3];
    uint32_t key4;
    memcpy(&key4, turned, 4);
    const uint64_t key8 = (uint64_t)key4 << 32 | key4; /* four bytes twice: the same in either byte order */
    const broker_lane16 key16 = {key8, key8};
    broker_lane16 seen16 = {0, 0};
    uint64_t seen = 0;
    uint8_t *const end = data + size;

    for (; (size_t)(end - data) >= 64; data += 64)
        for (unsigned i = 0; i < 64; i += 16) {
            broker_lane16 lane = broker_load16(data + i) ^ key16;
            memcpy(data + i, &lane, 16);
            seen16 |= lane;
        }
    for (; (size_t)(end - data) >= 16; data += 16) {
        broker_lane16 lane = broker_load16(data) ^ key16;
        memcpy(data, &lane, 16);
        seen16 |= lane;
    }
    if ((size_t)(end - data) >= 8) {
        uint64_t word;
        memcpy(&word, data, 8);
        word ^= key8;
        memcpy(data, &word, 8);
        seen |= word;
        data += 8;
    }
    if ((size_t)(end - data) >= 4) {
        uint32_t word;
        memcpy(&word, data, 4);
        word ^= key4;
        memcpy(data, &word, 4);
        seen |= word;
        data += 4;
    }
    for (unsigned i = 0; data < end; i++, data++) { /* at most three */
        *data ^= turned[i];
        seen |= *data;
    }
    return ((seen | seen16[0] | seen16[1]) & UINT64_C(0x8080808080808080)) != 0;
}

#endif
