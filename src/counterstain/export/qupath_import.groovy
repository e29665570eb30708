/**
 * Imports the regions of a whole run into the open QuPath project.
 *
 * Every `regions.geojson` (or `tiles.geojson`) under the run's output folder says which slide it belongs to. Its objects go to
 * the project's image of that slide; a slide that the project does not have yet is added. Objects of an earlier import of
 * the same result are replaced, everything else in the project is left alone.
 *
 * In QuPath: open or create a project, then Automate > Script editor, open this file, Run, and choose the output folder.
 * Close the image in the viewer first: saved later, it would put back the objects that it had before.
 * From a terminal: QuPath script --project=project.qpproj --args=/path/to/out qupath_import.groovy
 * A second argument names the files: --args=/path/to/out --args=tiles.geojson
 *
 * Written for QuPath 0.5 and later.
 */
import com.google.gson.stream.JsonReader
import groovy.io.FileType
import java.awt.image.BufferedImage
import java.nio.charset.StandardCharsets
import qupath.fx.dialogs.FileChoosers
import qupath.lib.images.servers.ImageServerProvider
import qupath.lib.io.GsonTools
import qupath.lib.io.PathIO

def project = getProject()
if (project == null) {
    throw new IllegalStateException('No project is open. Open or create one, then run this script again.')
}
def given
try {
    given = args ?: []
} catch (MissingPropertyException ignored) {
    given = []
}
def folder = given ? new File(given[0]) : FileChoosers.promptForDirectory('Output folder of the run', null)
if (folder == null) {
    return
}
def fileName = given.size() > 1 ? given[1] : 'regions.geojson'

/** What a file says of itself; it stands before the objects, so that nothing else needs to be read. */
def readMember(File file) {
    file.withReader(StandardCharsets.UTF_8.name()) { text ->
        def json = new JsonReader(text)
        json.beginObject()
        while (json.hasNext()) {
            if (json.nextName() == 'counterstain') {
                return GsonTools.getInstance().fromJson(json, Map)
            }
            json.skipValue()
        }
        return null
    }
}

/** The last part of a path written on any system. */
def nameOf(String path) {
    return path.replace('\\', '/').tokenize('/').last()
}

/** The project's image of a slide: by its full path, else by its file name where that is unique. */
def findEntry(project, String slidePath) {
    def pathsOf = { entry -> entry.getURIs().collect { it.getPath() ?: it.toString() } }
    def same = project.getImageList().find { entry ->
        pathsOf(entry).any { new File(it).getAbsolutePath() == new File(slidePath).getAbsolutePath() }
    }
    if (same != null) {
        return same
    }
    def named = project.getImageList().findAll { entry -> pathsOf(entry).any { nameOf(it) == nameOf(slidePath) } }
    if (named.size() > 1) {
        throw new IllegalStateException("${named.size()} images of the project are called ${nameOf(slidePath)}")
    }
    return named ? named[0] : null
}

/** Adds a slide to the project. */
def addEntry(project, String slidePath) {
    def file = new File(slidePath)
    if (!file.exists()) {
        throw new FileNotFoundException("${slidePath} is not there; add the slide to the project first")
    }
    def support = ImageServerProvider.getPreferredUriImageSupport(BufferedImage.class, file.toURI().toString())
    if (support == null || support.getBuilders().isEmpty()) {
        throw new IOException("QuPath can't open ${slidePath}")
    }
    def entry = project.addImage(support.getBuilders().get(0))
    entry.setImageName(file.getName())
    return entry
}

def files = []
folder.eachFileRecurse(FileType.FILES) { if (it.getName() == fileName) files << it }
files.sort()
println "${files.size()} files called ${fileName} under ${folder}"

def failed = 0
files.each { file ->
    try {
        def member = readMember(file)
        if (member == null) {
            throw new IOException('it does not say which slide it belongs to')
        }
        def slidePath = member.slide.path as String
        if (member.frame != 'qupath') {
            throw new IOException('it was exported in the frame of OpenSlide; export it again in that of QuPath')
        }
        def entry = findEntry(project, slidePath) ?: addEntry(project, slidePath)
        def imageData = entry.readImageData()
        def hierarchy = imageData.getHierarchy()
        def objects = PathIO.readObjects(file)
        def ids = objects.collect { it.getID() } as Set
        hierarchy.removeObjects(hierarchy.getAllObjects(false).findAll { it.getID() in ids }, true)
        hierarchy.addObjects(objects)
        entry.saveImageData(imageData)
        imageData.getServer().close()
        println "${entry.getImageName()}: ${objects.size()} objects"
    } catch (Exception error) {
        // One slide that fails must not end the batch.
        failed++
        println "${file}: skipped, ${error.getMessage()}"
    }
}
project.syncChanges()
println failed ? "${failed} of ${files.size()} files were skipped" : 'All files were imported'
