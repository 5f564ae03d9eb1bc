// live_update_host ARGUMENT... -U: the new program of a live update, as a xenstored starts it.
#include <cstdio>
#include <cstdlib>

#include "tests/support/live_update_host.h"

int main(int argc, char** argv) {
  const char* const folder = std::getenv("XENSTORED_RUNDIR");
  if (folder == nullptr) {
    std::fprintf(stderr, "live_update_host: started by a xenstored with XENSTORED_RUNDIR only\n");
    return 2;
  }
  bulkhead::test::LiveUpdateHost host({argv, argv + argc}, folder);
  bulkhead::Status status = host.take_over();
  if (status) status = host.serve();
  if (!status) std::fprintf(stderr, "live_update_host: %s\n", status.error().message().c_str());
  return status ? 0 : 1;
}
