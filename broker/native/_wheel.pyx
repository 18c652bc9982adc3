"""The timer wheel of the reactor's deadlines.

Time is a count of ticks (u32, 50 ms each: it lasts 6.8 years); the owner says what tick it is. Every connection has one timer,
set to the nearest of its deadlines: a deadline that moves away is found to be early when the timer fires and is set again, so
that traffic costs no timer operation.
"""

from libc.stdint cimport int32_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset


cdef void wheel_init(Wheel *wheel, uint32_t tick) noexcept nogil:
    memset(wheel, 0, sizeof(Wheel))
    wheel.tick = tick


cdef void wheel_stop(Wheel *wheel, Timer *timer) noexcept nogil:
    if timer.tick == 0:
        return
    if timer.previous == NULL:
        wheel.buckets[timer.tick & (WHEEL_BUCKETS - 1)] = timer.next
    else:
        timer.previous.next = timer.next
    if timer.next != NULL:
        timer.next.previous = timer.previous
    timer.next = timer.previous = NULL
    timer.tick = 0


cdef void wheel_set(Wheel *wheel, Timer *timer, uint32_t tick) noexcept nogil:
    cdef Timer **bucket
    if <int32_t>(tick - wheel.tick) <= 0:
        tick = wheel.tick + 1
    if tick == 0:
        tick = 1                                # 0 says that a timer is not set
    if timer.tick == tick:
        return
    wheel_stop(wheel, timer)
    bucket = &wheel.buckets[tick & (WHEEL_BUCKETS - 1)]
    timer.tick = tick
    timer.previous = NULL
    timer.next = bucket[0]
    if timer.next != NULL:
        timer.next.previous = timer
    bucket[0] = timer


cdef Timer *wheel_due(Wheel *wheel, uint32_t now) noexcept nogil:
    cdef Timer *timer
    while True:
        timer = wheel.buckets[wheel.tick & (WHEEL_BUCKETS - 1)]
        while timer != NULL:
            if <int32_t>(timer.tick - now) <= 0:
                wheel_stop(wheel, timer)
                return timer
            timer = timer.next
        if <int32_t>(now - wheel.tick) <= 0:
            return NULL
        if now - wheel.tick > WHEEL_BUCKETS:
            wheel.tick = now - WHEEL_BUCKETS    # after a pause longer than the wheel one round finds everything
        wheel.tick += 1


cdef class TimerWheel:
    """A wheel and `timers` timers for it, for tests."""

    cdef Wheel wheel
    cdef Timer *timers              # OWNED
    cdef uint32_t count

    def __cinit__(self, uint32_t timers, uint32_t tick):
        self.count = timers
        self.timers = <Timer *>calloc(timers, sizeof(Timer))    # freed by __dealloc__
        if self.timers == NULL:
            raise MemoryError
        wheel_init(&self.wheel, tick)

    def __dealloc__(self):
        free(self.timers)

    cdef Timer *_timer(self, uint32_t number) except NULL:
        if number >= self.count:
            raise IndexError(number)
        return &self.timers[number]

    def set(self, uint32_t number, uint32_t tick):
        """Starts or moves a timer; returns the tick it got."""
        cdef Timer *timer = self._timer(number)
        wheel_set(&self.wheel, timer, tick)
        return timer.tick

    def stop(self, uint32_t number):
        wheel_stop(&self.wheel, self._timer(number))

    def due(self, uint32_t now):
        """The next timer that is due by `now`, out of the wheel then; None = no other."""
        cdef Timer *timer = wheel_due(&self.wheel, now)
        return None if timer == NULL else timer - self.timers
