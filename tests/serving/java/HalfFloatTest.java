import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;

/** Encodes a file of little-endian float32 to halves, decodes a file of halves to float32; numpy compares. */
public final class HalfFloatTest {
    public static void main(String[] args) throws IOException {
        byte[] given = Files.readAllBytes(Paths.get(args[1]));
        Path result = Paths.get(args[2]);
        if (args[0].equals("encode")) {
            ByteBuffer buffer = ByteBuffer.wrap(given).order(ByteOrder.LITTLE_ENDIAN);
            float[] values = new float[given.length / 4];
            for (int at = 0; at < values.length; at++) {
                // by bits: a signalling NaN stays one
                values[at] = Float.intBitsToFloat(buffer.getInt());
            }
            Files.write(result, HalfFloat.encode(values));
            return;
        }
        float[] values = HalfFloat.decode(given);
        ByteBuffer buffer = ByteBuffer.allocate(4 * values.length).order(ByteOrder.LITTLE_ENDIAN);
        for (float value : values) {
            buffer.putInt(Float.floatToRawIntBits(value));
        }
        Files.write(result, buffer.array());
    }
}
