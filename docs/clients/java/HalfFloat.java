import java.nio.ByteBuffer;
import java.nio.ByteOrder;

/**
 * IEEE 754 half precision (FP16) for Triton's Java client, which has no type for it.
 *
 * <p>Encoding rounds to nearest, ties to even: subnormals are exact, from 65520 on a value becomes infinite, up to 2^-25
 * it becomes zero with its sign, and a NaN stays one. The recipe that is often copied, which shifts and masks the
 * exponent, makes 2.0 of 0.0 and 0x4247 of 3.14 (right: 0x4248).
 *
 * <p>From JDK 20 on, {@code Float.floatToFloat16} and {@code Float.float16ToFloat} do the same; this class is for those
 * before it. One file, no dependency, Java 8 and newer: copy it, and add your package.
 */
public final class HalfFloat {
    private HalfFloat() {}

    /** The bits of the half nearest to a value; of two equally near ones the even one. */
    public static short toHalf(float value) {
        int bits = Float.floatToRawIntBits(value);
        int sign = (bits >>> 16) & 0x8000;
        int magnitude = bits & 0x7fffffff;
        if (magnitude > 0x7f800000) {
            // NaN: quiet, with the upper part of its payload
            return (short) (sign | 0x7e00 | ((magnitude >>> 13) & 0x3ff));
        }
        if (magnitude >= 0x477ff000) {
            // 65520 and beyond, where the nearest half is infinity
            return (short) (sign | 0x7c00);
        }
        if (magnitude >= 0x38800000) {
            // normal, from 2^-14: rebias the exponent, add just under half a unit, and the odd bit for the tie
            int odd = (magnitude >>> 13) & 1;
            return (short) (sign | ((magnitude - 0x38000000 + 0xfff + odd) >>> 13));
        }
        if (magnitude <= 0x33000000) {
            // up to 2^-25, the tie between zero and the smallest subnormal
            return (short) sign;
        }
        // subnormal: units of 2^-24, the hidden bit made visible
        int shift = 126 - (magnitude >>> 23);
        int fraction = (magnitude & 0x7fffff) | 0x800000;
        int kept = fraction >>> shift;
        int rest = fraction & ((1 << shift) - 1);
        int half = 1 << (shift - 1);
        if (rest > half || (rest == half && (kept & 1) != 0)) {
            kept++;
        }
        return (short) (sign | kept);
    }

    /** The value of a half; exact, for every half is a float. */
    public static float toFloat(short half) {
        int sign = (half & 0x8000) << 16;
        int exponent = (half >>> 10) & 0x1f;
        int fraction = half & 0x3ff;
        if (exponent == 0x1f) {
            return Float.intBitsToFloat(sign | 0x7f800000 | (fraction << 13));
        }
        if (exponent != 0) {
            return Float.intBitsToFloat(sign | ((exponent + 112) << 23) | (fraction << 13));
        }
        // zero or subnormal: an integer times 2^-24
        float value = fraction * 0x1p-24f;
        return sign == 0 ? value : -value;
    }

    /** The halves of values as Triton takes them, little endian: an FP16 input's raw contents. */
    public static byte[] encode(float[] values) {
        ByteBuffer buffer = ByteBuffer.allocate(2 * values.length).order(ByteOrder.LITTLE_ENDIAN);
        for (float value : values) {
            buffer.putShort(toHalf(value));
        }
        return buffer.array();
    }

    /** The values of an FP16 output's raw contents, little endian. */
    public static float[] decode(byte[] raw) {
        return decode(ByteBuffer.wrap(raw));
    }

    /**
     * The values between a buffer's position and its limit, as {@code ByteString.asReadOnlyByteBuffer()} gives them.
     *
     * @throws IllegalArgumentException an odd number of bytes: that is no FP16
     */
    public static float[] decode(ByteBuffer raw) {
        if (raw.remaining() % 2 != 0) {
            throw new IllegalArgumentException(raw.remaining() + " bytes are no FP16 values; is the output FP16?");
        }
        ByteBuffer buffer = raw.duplicate().order(ByteOrder.LITTLE_ENDIAN);
        float[] values = new float[buffer.remaining() / 2];
        for (int at = 0; at < values.length; at++) {
            values[at] = toFloat(buffer.getShort());
        }
        return values;
    }
}
