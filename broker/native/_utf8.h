/* UTF-8 (RFC 3629 section 4), whole or in pieces: refuses overlong forms, surrogates and what lies beyond U+10FFFF, at
 * the first byte after which nothing could make the text valid. ASCII goes by 16 bytes, other characters as a whole;
 * the byte-wise states serve only a character that is cut between two pieces. */
#ifndef BROKER_NATIVE_UTF8_H
#define BROKER_NATIVE_UTF8_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* NEED_n: n continuation bytes are to come. The states of AFTER_x narrow the next one as well. */
enum {
    BROKER_UTF8_BOUNDARY,
    BROKER_UTF8_REJECT,
    BROKER_UTF8_NEED_1,
    BROKER_UTF8_NEED_2,
    BROKER_UTF8_NEED_3,
    BROKER_UTF8_AFTER_E0, /* below A0 it is overlong */
    BROKER_UTF8_AFTER_ED, /* above 9F it is a surrogate */
    BROKER_UTF8_AFTER_F0, /* below 90 it is overlong */
    BROKER_UTF8_AFTER_F4, /* above 8F it is beyond U+10FFFF */
};

/* How many bytes at the start of data[:size] are ASCII. */
static inline size_t broker_ascii_run(const uint8_t *data, size_t size)
{
    const uint64_t high = UINT64_C(0x8080808080808080);
    size_t at = 0;
    for (; size - at >= 16; at += 16) {
        uint64_t pair[2];
        memcpy(pair, data + at, 16);
        if ((pair[0] | pair[1]) & high)
            break;
    }
    for (; size - at >= 8; at += 8) {
        uint64_t word;
        memcpy(&word, data + at, 8);
        word &= high;
        if (word) {
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
            return at + ((size_t)__builtin_ctzll(word) >> 3);
#else
            return at + ((size_t)__builtin_clzll(word) >> 3);
#endif
        }
    }
    while (at < size && data[at] < 0x80)
        at++;
    return at;
}

static inline uint32_t broker_utf8_step(uint32_t state, uint8_t byte)
{
    static const struct {
        uint8_t low, high, next;
    } tail[] = {
        [BROKER_UTF8_NEED_1] = {0x80, 0xBF, BROKER_UTF8_BOUNDARY},
        [BROKER_UTF8_NEED_2] = {0x80, 0xBF, BROKER_UTF8_NEED_1},
        [BROKER_UTF8_NEED_3] = {0x80, 0xBF, BROKER_UTF8_NEED_2},
        [BROKER_UTF8_AFTER_E0] = {0xA0, 0xBF, BROKER_UTF8_NEED_1},
        [BROKER_UTF8_AFTER_ED] = {0x80, 0x9F, BROKER_UTF8_NEED_1},
        [BROKER_UTF8_AFTER_F0] = {0x90, 0xBF, BROKER_UTF8_NEED_2},
        [BROKER_UTF8_AFTER_F4] = {0x80, 0x8F, BROKER_UTF8_NEED_2},
    };
    if (state != BROKER_UTF8_BOUNDARY)
        return byte >= tail[state].low && byte <= tail[state].high ? tail[state].next : BROKER_UTF8_REJECT;
    if (byte < 0x80)
        return BROKER_UTF8_BOUNDARY;
    if (byte < 0xC2 || byte > 0xF4)
        return BROKER_UTF8_REJECT;
    if (byte < 0xE0)
        return BROKER_UTF8_NEED_1;
    switch (byte) {
    case 0xE0:
        return BROKER_UTF8_AFTER_E0;
    case 0xED:
        return BROKER_UTF8_AFTER_ED;
    case 0xF0:
        return BROKER_UTF8_AFTER_F0;
    case 0xF4:
        return BROKER_UTF8_AFTER_F4;
    default:
        return byte < 0xF0 ? BROKER_UTF8_NEED_2 : BROKER_UTF8_NEED_3;
    }
}

/* Length of the character of two to four bytes that begins at data[0], four bytes being readable; 0 = it is not UTF-8. */
static inline size_t broker_utf8_character(const uint8_t *data)
{
    const uint32_t lead = data[0], a = data[1] ^ 0x80u, b = data[2] ^ 0x80u, c = data[3] ^ 0x80u;
    uint32_t point; /* a, b and c are below 0x40 where a continuation byte stands */
    if (lead < 0xE0)
        return lead >= 0xC2 && a < 0x40 ? 2 : 0;
    if (lead < 0xF0) {
        point = (lead & 0x0F) << 12 | a << 6 | b;
        return (a | b) < 0x40 && point >= 0x800 && point - 0xD800u >= 0x800u ? 3 : 0;
    }
    point = (lead & 0x0F) << 18 | a << 12 | b << 6 | c;
    return lead <= 0xF4 && (a | b | c) < 0x40 && point - 0x10000u < 0x100000u ? 4 : 0;
}

/* The state after data[:size], begun in `state`. */
static inline uint32_t broker_utf8_check(uint32_t state, const uint8_t *data, size_t size)
{
    size_t at = 0;
    if (state == BROKER_UTF8_REJECT)
        return state;
    while (at < size) {
        if (state == BROKER_UTF8_BOUNDARY) {
            if (data[at] < 0x80) {
                at += broker_ascii_run(data + at, size - at);
                continue;
            }
            if (size - at >= 4) {
                const size_t length = broker_utf8_character(data + at);
                if (length == 0)
                    return BROKER_UTF8_REJECT;
                at += length;
                continue;
            }
        }
        state = broker_utf8_step(state, data[at++]);
        if (state == BROKER_UTF8_REJECT)
            return state;
    }
    return state;
}

#endif
