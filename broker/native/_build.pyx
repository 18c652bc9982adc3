"""Which build of the native core this is: release, debug (bounds checked) or asan. Set by setup.py for every module alike."""

cdef extern from *:
    const char *BROKER_BUILD_NAME

BUILD = (<bytes>BROKER_BUILD_NAME).decode("ascii")
