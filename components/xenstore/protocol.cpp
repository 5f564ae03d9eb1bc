#include "components/xenstore/protocol.h"
