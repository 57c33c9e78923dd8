// How copies of KV blocks are shared out.
#pragma once
#include <stdint.h>

namespace la {

constexpr uint32_t kCopyThreads = 256;
constexpr uint32_t kCopyParts = 2;  // thread blocks per KV block

}  // namespace la
