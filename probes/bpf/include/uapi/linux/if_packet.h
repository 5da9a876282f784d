/* SPDX-License-Identifier: GPL-2.0 OR BSD-3-Clause */
/* Stub: bcc's compatibility header carries its own copy of these definitions. */
#pragma once
