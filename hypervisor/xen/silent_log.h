// The libraries write to stderr what went wrong unless somebody listens. We report errors ourselves, and a
// guest must not be able to fill the log with grants that cannot be mapped.
#pragma once

struct xentoollog_logger;  // NOLINT(readability-identifier-naming): the library's

namespace bulkhead::hypervisor::xen {

// For the whole life of the process.
xentoollog_logger* silent_log();

}  // namespace bulkhead::hypervisor::xen
