#include "hypervisor/xen/silent_log.h"

#include <xentoollog.h>

namespace bulkhead::hypervisor::xen {
namespace {

void drop_message(xentoollog_logger*, xentoollog_level, int, const char*, const char*, va_list) {}
void drop_progress(xentoollog_logger*, const char*, const char*, int, unsigned long, unsigned long) {}
void keep(xentoollog_logger*) {}

}  // namespace

xentoollog_logger* silent_log() {
  static xentoollog_logger log{drop_message, drop_progress, keep};
  return &log;
}

}  // namespace bulkhead::hypervisor::xen
