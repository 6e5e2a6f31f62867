/* SPDX-License-Identifier: Apache-2.0 */
/** ramet/ramet.h - everything that is promised. What is not yet promised is in ramet/experimental.h and ramet/graph.h alone. */
#ifndef RAMET_H
#define RAMET_H
#include "base.h"
#include "model.h"
#include "session.h"
#include "shrink.h"
#include "train.h"
#include "feedback.h"
#endif
