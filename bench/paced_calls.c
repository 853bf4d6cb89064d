/* Unary gRPC calls over one HTTP/2 connection to a Unix socket, each sent when it is due, whatever is still unanswered.
 *
 *   paced_calls SOCKET RATE COUNT     RATE calls a second, COUNT in all
 *   paced_calls SOCKET 0 COUNT        as fast as they are answered, IN_FLIGHT at once
 *
 * Standard input: what opens the connection (our SETTINGS, the acknowledgement of the server's, a first call on stream 1), the block of a request's header fields, the message with gRPC's prefix; each behind its
 * length, four bytes in network order. Standard output: for each call, in the order of the answers, two unsigned numbers of four bytes in
 * the machine's order: nanoseconds from when it was due, and from when it was written, until its answer had been read. With RATE 0 both count
 * from the writing. Anything but `grpc-status: 0` ends the program.
 *
 * The clock starts beside the socket: no interpreter, no event loop, and the kernel told to wake it without slack.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { IN_FLIGHT = 32, FRAME = 9, READ = 1 << 18, PATIENCE_S = 20 };
enum { DATA = 0, HEADERS = 1, RST_STREAM = 3, PING = 6, GOAWAY = 7, WINDOW_UPDATE = 8, FIRST_STREAM = 3, END_STREAM = 1, ACK = 1, END_HEADERS = 4 };

static const char STATUS_OK[] = "grpc-status\x01" "0";

static void fail(const char *what) {
    fprintf(stderr, "paced_calls: %s\n", what);
    exit(1);
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint32_t until(uint64_t from, uint64_t to) {
    uint64_t took = to > from ? to - from : 0;
    return took > UINT32_MAX ? UINT32_MAX : (uint32_t)took;
}

static uint8_t *part(uint32_t *length) {
    uint8_t head[4];
    if (fread(head, 1, 4, stdin) != 4) fail("input ended early");
    *length = (uint32_t)head[0] << 24 | (uint32_t)head[1] << 16 | (uint32_t)head[2] << 8 | head[3];
    if (*length > 1u << 14) fail("a part is too long");
    uint8_t *bytes = malloc(*length + 1u);
    if (!bytes || fread(bytes, 1, *length, stdin) != *length) fail("input ended early");
    return bytes;
}

static void put_frame(uint8_t *at, uint32_t length, uint8_t kind, uint8_t flags, uint32_t stream) {
    at[0] = (uint8_t)(length >> 16), at[1] = (uint8_t)(length >> 8), at[2] = (uint8_t)length;
    at[3] = kind, at[4] = flags;
    at[5] = (uint8_t)(stream >> 24), at[6] = (uint8_t)(stream >> 16), at[7] = (uint8_t)(stream >> 8), at[8] = (uint8_t)stream;
}

/* What the socket has not taken yet. The server stops reading while nobody reads its answers, so that we must not wait in a write. */
static uint8_t *out;
static size_t out_held, out_room;

static void send_bytes(int fd, const uint8_t *bytes, size_t length) {
    if (out_held + length > out_room) {
        out_room = 2 * (out_held + length);
        out = realloc(out, out_room);
        if (!out) fail("no memory");
    }
    if (length) memcpy(out + out_held, bytes, length);
    out_held += length;
    ssize_t wrote = write(fd, out, out_held);
    if (wrote < 0 && errno != EINTR && errno != EAGAIN) fail("the connection was closed");
    if (wrote <= 0) return;
    out_held -= (size_t)wrote;
    memmove(out, out + wrote, out_held);
}

int main(int count_of, char **words) {
    if (count_of != 4) fail("paced_calls SOCKET RATE COUNT");
    const uint64_t rate = strtoull(words[2], NULL, 10), total = strtoull(words[3], NULL, 10);
    if (!total || total > 100000000u) fail("COUNT is out of bounds");
    prctl(PR_SET_TIMERSLACK, 1);

    uint32_t opening_length, block_length, message_length;
    uint8_t *opening = part(&opening_length), *block = part(&block_length), *message = part(&message_length);
    const size_t call_length = 2 * FRAME + block_length + message_length;
    uint8_t *call = malloc(call_length);
    uint64_t *due = calloc(total, sizeof *due), *written = calloc(total, sizeof *written);
    uint32_t *took = calloc(2 * total, sizeof *took);
    static uint8_t seen[READ];
    if (!call || !due || !written || !took) fail("no memory");
    memcpy(call + FRAME, block, block_length);
    memcpy(call + 2 * FRAME + block_length, message, message_length);

    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(words[1]) >= sizeof address.sun_path) fail("the socket's path is too long");
    strcpy(address.sun_path, words[1]);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address)) fail("cannot connect");
    if (fcntl(fd, F_SETFL, O_NONBLOCK) < 0) fail("fcntl");
    send_bytes(fd, opening, opening_length);

    size_t held = 0;
    uint64_t sent = 0, answered = 0, credit = 0;
    const uint64_t began = now_ns() + (rate ? 100000000u : 0);
    uint64_t last = began;
    while (answered < total) {
        uint64_t now = now_ns();
        while (sent < total && (rate ? began + sent * 1000000000u / rate <= now : sent - answered < IN_FLIGHT)) {
            uint32_t stream = (uint32_t)(2 * sent + FIRST_STREAM);
            put_frame(call, block_length, HEADERS, END_HEADERS, stream);
            put_frame(call + FRAME + block_length, message_length, DATA, END_STREAM, stream);
            now = now_ns();
            due[sent] = rate ? began + sent * 1000000000u / rate : now;
            written[sent] = now;
            send_bytes(fd, call, call_length);
            sent++;
        }
        struct timespec wait = {.tv_sec = PATIENCE_S};
        if (rate && sent < total) {
            uint64_t next = began + sent * 1000000000u / rate;
            now = now_ns();
            uint64_t left = next > now ? next - now : 0;
            wait.tv_sec = (time_t)(left / 1000000000u), wait.tv_nsec = (long)(left % 1000000000u);
        }
        if (now_ns() > last + PATIENCE_S * 1000000000ull) fail("calls are not answered");
        struct pollfd watched = {.fd = fd, .events = POLLIN | (out_held ? POLLOUT : 0)};
        int ready = ppoll(&watched, 1, &wait, NULL);
        if (ready < 0 && errno != EINTR) fail("poll");
        if (ready <= 0) continue;
        if (watched.revents & POLLOUT) send_bytes(fd, NULL, 0);
        if (!(watched.revents & ~POLLOUT)) continue;
        ssize_t got = read(fd, seen + held, READ - held);
        if (got < 0 && (errno == EAGAIN || errno == EINTR)) continue;
        if (got <= 0) fail("the connection was closed");
        now = now_ns();
        held += (size_t)got;
        size_t at = 0;
        while (held - at >= FRAME) {
            const uint8_t *frame = seen + at;
            uint32_t length = (uint32_t)frame[0] << 16 | (uint32_t)frame[1] << 8 | frame[2];
            uint32_t stream = ((uint32_t)frame[5] & 0x7f) << 24 | (uint32_t)frame[6] << 16 | (uint32_t)frame[7] << 8 | frame[8];
            if (length > READ - FRAME) fail("a frame is too long");
            if (held - at < FRAME + length) break;
            if (frame[3] == HEADERS && frame[4] & END_STREAM && stream >= FIRST_STREAM) {
                uint64_t number = (stream - FIRST_STREAM) / 2;
                if (!memmem(frame + FRAME, length, STATUS_OK, sizeof STATUS_OK - 1)) fail("a call failed");
                if (!(stream & 1) || number >= sent) fail("an answer to no question");
                took[2 * answered] = until(due[number], now), took[2 * answered + 1] = until(written[number], now);
                answered++, last = now;
            } else if (frame[3] == DATA) {
                credit += length;
                if (credit > 1u << 20) {
                    uint8_t more[FRAME + 4];
                    put_frame(more, 4, WINDOW_UPDATE, 0, 0);
                    more[9] = (uint8_t)(credit >> 24), more[10] = (uint8_t)(credit >> 16), more[11] = (uint8_t)(credit >> 8), more[12] = (uint8_t)credit;
                    send_bytes(fd, more, sizeof more);
                    credit = 0;
                }
            } else if (frame[3] == RST_STREAM || frame[3] == GOAWAY) {
                fail("the server ended a call or the connection");
            } else if (frame[3] == PING && !(frame[4] & ACK) && length == 8) {
                uint8_t reply[FRAME + 8];
                put_frame(reply, 8, PING, ACK, 0);
                memcpy(reply + FRAME, frame + FRAME, 8);
                send_bytes(fd, reply, sizeof reply);
            }
            at += FRAME + length;
        }
        memmove(seen, seen + at, held - at);
        held -= at;
    }
    if (fwrite(took, sizeof *took, 2 * total, stdout) != 2 * total) fail("cannot write the times");
    return 0;
}
