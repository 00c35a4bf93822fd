/* A program in JavaScript: QuickJS, the script SCRIPT inside, and a keep's network as functions.
 *
 *   print(text)          args                  accept(listener) -> fd
 *   connect(address)     -> fd                 peer(fd) -> JSON
 *   read(fd)             -> ArrayBuffer, empty at the end
 *   write(fd, text or ArrayBuffer)             close(fd)
 */
#include "../c/peer.h"
#include "quickjs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static const char script[] = {
#embed SCRIPT
    , 0};

static JSValue failed(JSContext *js, const char *what)
{
    return JS_ThrowInternalError(js, "%s: %s", what, strerror(errno));
}

static int descriptor(JSContext *js, JSValueConst value)
{
    int32_t fd;
    return JS_ToInt32(js, &fd, value) ? -1 : fd;
}

static JSValue print(JSContext *js, JSValueConst self, int count, JSValueConst *args)
{
    (void)self, (void)count;
    const char *text = JS_ToCString(js, args[0]);
    if (!text)
        return JS_EXCEPTION;
    puts(text);
    fflush(stdout);
    JS_FreeCString(js, text);
    return JS_UNDEFINED;
}

/* To connect is to open a file. */
static JSValue js_connect(JSContext *js, JSValueConst self, int count, JSValueConst *args)
{
    (void)self, (void)count;
    char path[300];
    const char *address = JS_ToCString(js, args[0]);
    if (!address)
        return JS_EXCEPTION;
    snprintf(path, sizeof path, "/net/con/%s", address);
    JS_FreeCString(js, address);
    int fd = open(path, O_RDWR);
    return fd < 0 ? failed(js, path) : JS_NewInt32(js, fd);
}

static JSValue js_accept(JSContext *js, JSValueConst self, int count, JSValueConst *args)
{
    (void)self, (void)count;
    int fd = accept(descriptor(js, args[0]), NULL, NULL);
    return fd < 0 ? failed(js, "accept") : JS_NewInt32(js, fd);
}

static JSValue peer(JSContext *js, JSValueConst self, int count, JSValueConst *args)
{
    (void)self, (void)count;
    char text[MAX_PEER];
    return read_peer(descriptor(js, args[0]), text) < 0 ? failed(js, "peer") : JS_NewString(js, text);
}

static JSValue js_read(JSContext *js, JSValueConst self, int count, JSValueConst *args)
{
    (void)self, (void)count;
    uint8_t buffer[16384];
    ssize_t got = read(descriptor(js, args[0]), buffer, sizeof buffer);
    return got < 0 ? failed(js, "read") : JS_NewArrayBufferCopy(js, buffer, (size_t)got);
}

static JSValue js_write(JSContext *js, JSValueConst self, int count, JSValueConst *args)
{
    (void)self, (void)count;
    size_t size, done = 0;
    int fd = descriptor(js, args[0]);
    const char *text = JS_IsString(args[1]) ? JS_ToCStringLen(js, &size, args[1]) : NULL;
    const char *data = text ? text : (const char *)JS_GetArrayBuffer(js, &size, args[1]);
    if (!data)
        return JS_EXCEPTION;
    for (ssize_t n = 0; done < size && n >= 0; done += n > 0 ? (size_t)n : 0)
        n = write(fd, data + done, size - done);
    if (text)
        JS_FreeCString(js, text);
    return done < size ? failed(js, "write") : JS_UNDEFINED;
}

static JSValue js_close(JSContext *js, JSValueConst self, int count, JSValueConst *args)
{
    (void)self, (void)count;
    return close(descriptor(js, args[0])) < 0 ? failed(js, "close") : JS_UNDEFINED;
}

static const JSCFunctionListEntry functions[] = {
    JS_CFUNC_DEF("print", 1, print),   JS_CFUNC_DEF("connect", 1, js_connect),
    JS_CFUNC_DEF("peer", 1, peer),     JS_CFUNC_DEF("accept", 1, js_accept),
    JS_CFUNC_DEF("read", 1, js_read),  JS_CFUNC_DEF("write", 2, js_write),
    JS_CFUNC_DEF("close", 1, js_close),
};

int main(int count, char **words)
{
    JSRuntime *runtime = JS_NewRuntime();
    JSContext *js = runtime ? JS_NewContext(runtime) : NULL;
    if (!js)
        return EXIT_FAILURE;
    JSValue global = JS_GetGlobalObject(js), args = JS_NewArray(js);
    JS_SetPropertyFunctionList(js, global, functions, sizeof functions / sizeof *functions);
    for (int i = 1; i < count; i++)
        JS_SetPropertyUint32(js, args, (uint32_t)i - 1, JS_NewString(js, words[i]));
    JS_SetPropertyStr(js, global, "args", args);
    JSValue result = JS_Eval(js, script, sizeof script - 1, SCRIPT, JS_EVAL_TYPE_GLOBAL);
    if (JS_IsException(result)) {
        JSValue error = JS_GetException(js);
        const char *text = JS_ToCString(js, error);
        fprintf(stderr, "%s\n", text ? text : "an exception without a text");
        return EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
}
