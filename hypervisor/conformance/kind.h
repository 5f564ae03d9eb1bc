// How something failed, for tests.
#pragma once

#include <gtest/gtest.h>

#include "runtime/result.h"

namespace bulkhead::hypervisor {

template <typename T>
ErrorKind kind(const Result<T>& result) {
  if (!result) return result.error().kind();
  ADD_FAILURE() << "a success";
  return ErrorKind::kFailed;
}

}  // namespace bulkhead::hypervisor
